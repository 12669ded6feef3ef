"""Step caches: values with the settings of published methods. `pipe.cached("first_block", threshold=0.1)` uses one.

The classes have the names of diffusers' configs where there are some. `StepCache` and `DeepLayerCache` are the bases of
your own.
"""

from .attention import AttentionCache as AttentionCache
from .attention import FasterCacheConfig as FasterCacheConfig
from .attention import PyramidAttentionBroadcastConfig as PyramidAttentionBroadcastConfig
from .cache import StepCache as StepCache
from .deep import DeepLayerCache as DeepLayerCache
from .measured import FirstBlockCacheConfig as FirstBlockCacheConfig
from .measured import SeaCacheConfig as SeaCacheConfig
from .measured import TeaCacheConfig as TeaCacheConfig
from .scheduled import FLUX_MAG_RATIOS as FLUX_MAG_RATIOS
from .scheduled import DeepCacheConfig as DeepCacheConfig
from .scheduled import MagCacheConfig as MagCacheConfig
from .scheduled import TaylorSeerCacheConfig as TaylorSeerCacheConfig
