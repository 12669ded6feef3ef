"""The memo: what blocks have computed, kept by what it was computed from."""

from .memo import Memo as Memo
from .memo import memo as memo
