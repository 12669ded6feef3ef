"""The array types of noise levels and timesteps."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]  # Any: float32 or float64, as numpy writes it
