"""The arguments of the methods that users call, checked against their types before anything is done with them."""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast, get_type_hints

from .block import Block
from .errors import Problem, WireError
from .typing import type_text
from .validate import Unfit, fitted, value_text

F = TypeVar("F", bound=Callable[..., Any])


def checked_arguments(method: F) -> F:
    """A method whose arguments are checked: a name where a block is needed, or a block for a name, is a `WireError`.

    A value in place of a block is left to the method, which says how to make one of it.
    """
    signature = inspect.signature(method)
    required = [str(p).partition(":")[0] for p in signature.parameters.values() if p.default is p.empty][1:]

    @cache
    def hints() -> dict[str, Any]:
        return {name: hint for name, hint in get_type_hints(method).items() if hint is not Block}

    def check(name: str, value: Any, hint: Any) -> None:
        try:
            fitted(value, hint)
        except Unfit:
            line = f"graph.{method.__name__}({', '.join(required)})"
            text = f"needs {type_text(hint)} as {name}, got {value_text(value)}. Write {line}."
            raise WireError(Problem("argument", method.__name__, text, type(value).__name__, type_text(hint))) from None

    @wraps(method)
    def checked(self: Any, *args: Any, **keywords: Any) -> Any:
        passed = signature.bind(self, *args, **keywords).arguments
        for name, hint in hints().items():
            if name in passed:
                many = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
                for value in passed[name] if many else (passed[name],):
                    check(name, value, hint)
        return method(self, *args, **keywords)

    return cast(F, checked)
