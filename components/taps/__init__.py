"""Taps: changes of some layers of a denoiser for one pass. They make views; the model itself does not change.

`sf.taps.FreeU(b1=1.3, b2=1.4)` is a change. `sf.taps.AttentionChange` is the base of your own.
"""

from .attention import AttentionCall as AttentionCall
from .attention import AttentionChange as AttentionChange
from .change import Change as Change
from .freeu import FreeU as FreeU
from .merging import TokenMerging as TokenMerging
from .perturb import Blur as Blur
from .perturb import Drop as Drop
from .perturb import Identity as Identity
from .place import Forward as Forward
from .place import PassRows as PassRows
from .place import Place as Place
from .place import TappedBlock as TappedBlock
from .tap import NO_TAPS as NO_TAPS
from .tap import Tap as Tap
from .tap import Taps as Taps
