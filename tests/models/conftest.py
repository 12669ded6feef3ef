"""Fixtures of the tests of models: the reference implementation, tiny models of both, the embedded model."""

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
    """Ignore the reference's own warnings of deprecation. Warnings from our code stay errors."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", module="diffusers")
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def reference() -> Any:  # a lazy module: its attributes are made when they are read
    """diffusers, which the library never imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers: Any = import_module("diffusers")
        _ = (diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, diffusers.AutoencoderTiny)  # imports them
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


@pytest.fixture
def emoji() -> Path:
    """The folder of the embedded real model."""
    return EMOJI


Pair = tuple[Any, Any]


@pytest.fixture
def read_by_us(reference: Any, tmp_path: Path) -> Callable[[str, dict[str, Any]], Pair]:
    """Makes and saves a model of the reference; returns (ours, read from that folder; theirs)."""

    def make(name: str, config: dict[str, Any]) -> Pair:
        theirs = getattr(reference, name).from_config(config).eval()
        theirs.save_pretrained(tmp_path / "theirs")
        return getattr(ours, name).from_pretrained(tmp_path / "theirs"), theirs

    return make


@pytest.fixture
def read_by_them(reference: Any, tmp_path: Path) -> Callable[[str, dict[str, Any]], Pair]:
    """Makes and saves a model of ours; returns (ours; theirs, read from that folder without a report)."""

    def make(name: str, config: dict[str, Any]) -> Pair:
        model = getattr(ours, name).from_config(config).eval()
        model.save_pretrained(tmp_path / "ours")
        theirs, report = getattr(reference, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()), report
        return model, theirs.eval()

    return make


@pytest.fixture
def read_random(reference: Any, tmp_path: Path) -> Callable[[str, dict[str, Any]], Pair]:
    """Like `read_by_us`, with random weights everywhere: fresh norms, gates and control nets would add nothing."""

    def make(name: str, config: dict[str, Any]) -> Pair:
        theirs = getattr(reference, name).from_config(config).eval()
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        theirs.save_pretrained(tmp_path / "theirs")
        return getattr(ours, name).from_pretrained(tmp_path / "theirs"), theirs

    return make


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference."""
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.fixture
def apart() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Computes the largest difference of two tensors of one shape."""
    return furthest
