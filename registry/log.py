"""The log of the library. The `sfumato` command prints it as notes and warnings."""

import logging

from .text import printable_lines


class _Printable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable_lines(record.getMessage()), ()
        return True


LOG = logging.getLogger("sfumato")
LOG.addFilter(_Printable())
