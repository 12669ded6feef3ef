"""What components say of themselves before they are loaded."""

from collections.abc import Mapping
from typing import Any, cast


def read_config(component: Any) -> Mapping[str, Any]:  # whatever is bound
    """The config of a bound component: of its object, or read from its folder; {} where there is none."""
    if component is None:
        return {}
    if hasattr(component, "spec"):
        return component.spec.read_config()
    return cast(Mapping[str, Any], component.to_config()) if hasattr(component, "to_config") else {}
