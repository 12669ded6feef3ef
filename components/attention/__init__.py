"""Backends of attention: the kernels that compute it. `pipe.using(attention="sliced")` chooses one by its name."""

from ..kernels.backend import AttentionBackend as AttentionBackend
from ..kernels.backend import AttentionInputs as AttentionInputs
from ..kernels.flex import Flex as Flex
from ..kernels.kernel import AttentionReport as AttentionReport
from ..kernels.packages import Flash3 as Flash3
from ..kernels.packages import FlashAttn as FlashAttn
from ..kernels.packages import Sage as Sage
from ..kernels.packages import Xformers as Xformers
from ..kernels.sliced import Sliced as Sliced
from ..kernels.table import TABLE as TABLE
from ..kernels.table import Row as Row
from ..kernels.torch_kernels import SDPA as SDPA
from ..kernels.torch_kernels import Cudnn as Cudnn
from ..kernels.torch_kernels import Efficient as Efficient
from ..kernels.torch_kernels import Flash as Flash
from ..kernels.torch_kernels import Math as Math
from .attended import UsedAttention as UsedAttention
from .attended import register as register
from .attended import report as report
