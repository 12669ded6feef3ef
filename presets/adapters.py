"""`sf.adapters`: make adapters of models and of other adapters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..components.adapters.adapter import Adapter
from ..components.adapters.combine import combine as combine
from ..components.adapters.extract import Rest, extract_models
from ..components.adapters.names import DENOISERS
from ..graph import ConfigError, Graph, Lazy, LoadError
from ..registry import models
from .load import load, load_component


def extract(
    tuned: Any,  # see below
    base: Any,
    rank: int = 16,
    *,
    threshold: float = 0.0,
    rest: Rest = "keep",
    name: str = "extracted",
) -> Adapter:
    """Make an adapter of the differences between trained models and their base, by truncated SVD of each matrix.

    Args:
        tuned: the trained one: a graph, a model, a handle, a folder, repo or file, or models by component.
        base: what it was trained from, in any of these forms.
        rank: the largest rank of a matrix. A convolution is a matrix of (out, in * height * width).
        threshold: the error that is allowed, as a fraction of each difference's norm. Matrices take the smallest rank
            within it, up to `rank`; 0 takes `rank`.
        rest: what becomes of the differences of biases and norms: "keep" them whole (PEFT's layout has no form for
            them), or "drop" them.
        name: the adapter's name.

    Raises:
        ConfigError: models that do not match, or that are equal.
    """
    one, other = _models(tuned, "tuned"), _models(base, "base")
    return extract_models(one, other, rank, threshold=threshold, rest=rest, name=name)


def _models(side: Any, which: str) -> Mapping[str, Any]:
    """The models of one side, by component."""
    if isinstance(side, str | Path):
        return _models(_read(side), which)
    if isinstance(side, Mapping):
        return cast("Mapping[str, Any]", side)
    if isinstance(side, Graph):
        return side.adapted_bindings
    kind = side.type if isinstance(side, Lazy) else type(side)
    if kind is None or models.find(kind.__name__) is not kind:
        raise ConfigError(
            f"extract: {which} needs a graph, a model, a handle, a path, or models by component. Got {side!r}."
        )
    return {_component(kind.__name__): side}


def _component(class_name: str) -> str:
    """The usual name of a component of this class."""
    unet, transformer = DENOISERS
    return unet if class_name.startswith("UNet") else transformer if "Transformer" in class_name else "text_encoder"


def _read(path: str | Path) -> Any:  # a graph or a model
    """The pipeline of a folder, repo or file, or the one model in it."""
    try:
        return load(path)
    except LoadError:
        try:
            return load_component(path)
        except LoadError:
            pass
        raise
