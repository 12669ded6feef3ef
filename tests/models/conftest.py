"""What the tests of models share: the reference implementation, tiny seeded models of both, the embedded real model."""

import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato.components.models as ours

ROOT = Path(__file__).parents[2]
EMOJI = next(p for p in (ROOT / "presets/embedded/emoji", ROOT.parent / "shared/models/emoji") if p.exists())


@pytest.fixture(autouse=True)
def _quiet_and_seeded() -> Iterator[None]:
    """The reference warns about its own deprecations; ours stay errors, since they are raised in our own tests too."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", module="diffusers")
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def reference() -> Any:  # a lazy module: its attributes are made when asked for
    """diffusers, which the library never imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers: Any = import_module("diffusers")
        _ = (diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, diffusers.AutoencoderTiny)  # imported for good
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


@pytest.fixture
def emoji() -> Path:
    """The folder of the embedded real model."""
    return EMOJI


Pair = tuple[Any, Any]


@pytest.fixture
def read_by_us(reference: Any, tmp_path: Path) -> Callable[[str, dict[str, Any]], Pair]:
    """Makes a reference model, lets it save itself, and gives (ours read from there, theirs)."""

    def make(name: str, config: dict[str, Any]) -> Pair:
        theirs = getattr(reference, name).from_config(config).eval()
        theirs.save_pretrained(tmp_path / "theirs")
        return getattr(ours, name).from_pretrained(tmp_path / "theirs"), theirs

    return make


@pytest.fixture
def read_by_them(reference: Any, tmp_path: Path) -> Callable[[str, dict[str, Any]], Pair]:
    """Makes a model of ours, lets it save itself, and gives (ours, theirs read from there with nothing amiss)."""

    def make(name: str, config: dict[str, Any]) -> Pair:
        model = getattr(ours, name).from_config(config).eval()
        model.save_pretrained(tmp_path / "ours")
        theirs, report = getattr(reference, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()), report
        return model, theirs.eval()

    return make


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference."""
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.fixture
def apart() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Gives the largest difference of two tensors of one shape."""
    return furthest
