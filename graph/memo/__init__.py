"""The memo: outputs of blocks, kept by keys of the inputs, code and components that made them."""

from .memo import Memo as Memo
from .memo import memo as memo
