"""Errors of this package for operations that torch refuses."""

import re
from typing import Any

from .block import Block
from .errors import BlockFailed, SfumatoError
from .named import Named

_OWN = __name__.partition(".")[0] + "."
_REFUSALS = (RuntimeError, IndexError, MemoryError, OverflowError)
_ALLOCATION = re.compile(r"tried to allocate (\d+) bytes|Unable to allocate ([\d.]+ \w+)")
_LONGEST = 300  # letters of torch's reason


def failure_in(block: Block, error: Exception) -> BlockFailed | None:
    """The error for a refusal of torch in a block of this package: sizes that do not fit each other, too little memory.

    None for an error that stays as it is: one of this package, one that a block of a user raised, and torch's own error
    for the memory of a device, which programs catch by its class.
    """
    while isinstance(block, Named):
        block = block.block
    if isinstance(error, SfumatoError) or not type(block).__module__.startswith(_OWN):
        return None
    if type(error).__name__ == "OutOfMemoryError" or not (isinstance(error, _REFUSALS) or _is_of_torch(error)):
        return None
    if found := allocation_in(error):
        return BlockFailed(f"Needs {found} of memory at once, more than is free. Make fewer or smaller pictures.")
    reason = str(error).strip().partition("\n")[0][:_LONGEST] or type(error).__name__
    return BlockFailed(
        f"Cannot compute with these values: {reason}. The models do not fit each other or the sizes of the call."
    )


def allocation_in(error: BaseException) -> str | None:
    """The memory that could not be had ("250 GB"), by the text of torch or numpy; None for another error."""
    if (found := _ALLOCATION.search(str(error))) is not None:
        return f"{int(found[1]) / 1e9:.3g} GB" if found[1] else found[2]
    return "more" if isinstance(error, MemoryError) else None


def _is_of_torch(error: Exception) -> bool:
    """Whether the last function that ran is one of torch: it checks some values in Python."""
    traceback: Any = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = traceback.tb_frame.f_globals.get("__name__", "") if traceback is not None else ""
    return name.partition(".")[0] == "torch"
