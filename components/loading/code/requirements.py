"""What code needs to be installed, against what is."""

import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from ....graph.errors import LoadError


def check_requirements(where: str, wanted: Mapping[str, str]) -> None:
    """Refuse where packages are missing or of another version: {"scipy": ">=1.10"}. All of them at once."""
    if not wanted:
        return
    from packaging.requirements import InvalidRequirement, Requirement

    lines: list[str] = []
    install: list[str] = []
    for name, spec in wanted.items():
        try:
            asked = Requirement(f"{name}{spec}")
        except InvalidRequirement:
            lines.append(f"  {name!r}: {spec!r} is no requirement; wanted such as {{'scipy': '>=1.10'}}.")
            continue
        try:
            there = version(asked.name)
        except PackageNotFoundError:
            lines.append(f"  {asked.name}: is not installed, wanted {asked.specifier or 'any version'}.")
        else:
            if asked.specifier.contains(there, prereleases=True):
                continue
            lines.append(f"  {asked.name}: {there} is installed, wanted {asked.specifier}.")
        install.append(shlex.quote(f"{asked.name}{asked.specifier}"))
    if lines:
        way_out = [f"  pip install {' '.join(install)}"] if install else []
        raise LoadError("\n".join([f"{where}: its code needs packages that are not here.", *lines, *way_out]))
