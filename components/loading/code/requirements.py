"""Compare the packages that code needs with those that are installed."""

import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from ....graph.errors import LoadError


def check_requirements(where: str, wanted: Mapping[str, str]) -> None:
    """LoadError for missing packages and unfit versions, all at once.

    Args:
        where: the source of the code, for errors.
        wanted: versions by package, {"scipy": ">=1.10"}.
    """
    if not wanted:
        return
    from packaging.requirements import InvalidRequirement, Requirement

    lines: list[str] = []
    install: list[str] = []
    for name, spec in wanted.items():
        try:
            requirement = Requirement(f"{name}{spec}")
        except InvalidRequirement:
            lines.append(f"  {name!r}: needs a version such as {{'scipy': '>=1.10'}}, got {spec!r}.")
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            lines.append(f"  {requirement.name}: is not installed, needs {requirement.specifier or 'any version'}.")
        else:
            if requirement.specifier.contains(installed, prereleases=True):
                continue
            lines.append(f"  {requirement.name}: {installed} is installed, needs {requirement.specifier}.")
        install.append(shlex.quote(f"{requirement.name}{requirement.specifier}"))
    if lines:
        way_out = [f"  pip install {' '.join(install)}"] if install else []
        raise LoadError("\n".join([f"{where}: its code needs packages that are missing.", *lines, *way_out]))
