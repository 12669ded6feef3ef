"""Saving: a file or a folder is written whole or not at all, whatever ends the process (decision 0014)."""

from .saving import Draft as Draft
from .saving import saving_file as saving_file
from .saving import saving_folder as saving_folder
from .work import undo_interrupted as undo_interrupted
