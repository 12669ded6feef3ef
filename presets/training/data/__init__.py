"""Training data: pictures with captions from folders, tables, tar files and the Hub, in a repeatable order."""

from .batches import Batches as Batches
from .buckets import Buckets as Buckets
from .captions import Captions as Captions
from .frozen import FrozenPart as FrozenPart
from .frozen import freeze as freeze
from .load import load_data as load_data
from .samples import Batch as Batch
from .samples import Sample as Sample
from .source import Source as Source
from .training_data import TrainingData as TrainingData
