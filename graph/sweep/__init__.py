"""A sweep: the runs of all combinations of some values, as a table and as one picture."""

from .sweeping import sweep as sweep
from .table import Cell as Cell
from .table import Sweep as Sweep
