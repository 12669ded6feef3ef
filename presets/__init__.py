"""Ready graphs, loading and saving, and the command line.

`sfumato.presets()` lists the presets that `sf.load` knows. The function has the name of this package, so the package
can be called: else importing a submodule would replace the function with the package.
"""

import sys
from types import ModuleType


class _Presets(ModuleType):
    def __call__(self) -> list[str]:
        """The presets that `sf.load` knows by name."""
        from .names import names

        return names()


sys.modules[__name__].__class__ = _Presets
