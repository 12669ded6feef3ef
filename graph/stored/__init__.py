"""Values that flow in graphs, in files: as JSON and tensors, read without running anything that a file names."""

from .file import BrokenFile as BrokenFile
from .file import read_file as read_file
from .file import write_file as write_file
from .values import NotStored as NotStored
from .values import Stored as Stored
from .values import restore as restore
from .values import store as store
