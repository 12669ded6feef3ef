"""Ready graphs, and what loads, runs and serves them.

`sfumato.presets()` lists what can be loaded by name. It shares its name with this package, which therefore can be
called: importing a submodule would otherwise put the package in the function's place.
"""

import sys
from types import ModuleType


class _Presets(ModuleType):
    def __call__(self) -> list[str]:
        """The presets that `sf.load` knows by name."""
        from .names import names

        return names()


sys.modules[__name__].__class__ = _Presets
