"""Several processes of torch.distributed that compute one picture. `pipe.parallel("guidance")` chooses a plan."""

from .plans import Batch as Batch
from .plans import Context as Context
from .plans import Guidance as Guidance
