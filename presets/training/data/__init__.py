"""Training data: pictures with captions from folders, tables, tar files and the Hub, in a repeatable order."""

from .buckets import Buckets as Buckets
from .captions import Captions as Captions
from .load import load_data as load_data
from .source import Source as Source
from .training_data import TrainingData as TrainingData
