"""What the tests of quantization share: the embedded U-Net and its inputs, and the packages that quantize."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "presets/embedded/emoji"

Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _quiet_and_seeded() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  a fixture
    """The packages warn about their own deprecations; ours stay errors."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", module=r"(diffusers|torchao|optimum|bitsandbytes|torch)(\..*)?")
        torch.manual_seed(0)
        yield


@pytest.fixture
def unet() -> Path:
    """The folder of the embedded U-Net."""
    return EMOJI / "unet"


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    """Latents, time and prompt for it."""
    made = torch.Generator().manual_seed(1)
    return torch.randn(2, 8, 8, 8, generator=made), torch.tensor(500), torch.randn(2, 9, 128, generator=made)


@pytest.fixture(scope="session")
def exact(inputs: Inputs) -> Tensor:
    """What the U-Net says without quantization."""
    with torch.no_grad():
        return UNet2DConditionModel.from_pretrained(EMOJI / "unet")(*inputs)


@pytest.fixture(scope="session")
def package() -> Callable[[str], Any]:
    """Imports a package that quantizes, or skips the test where it is not installed."""

    def imported(name: str) -> Any:  # untyped packages
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torchao").setLevel(logging.ERROR)
            try:
                return import_module(name)
            except ModuleNotFoundError:
                return pytest.skip(f"{name} is not installed")

    return imported


PACKAGES: Mapping[str, str] = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "quanto": "optimum.quanto"}
"""By the quant_method."""


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """All modules that hold a weight, by path."""
    return {path: module for path, module in model.named_modules() if getattr(type(module), "forward", None)}


@pytest.fixture
def apart() -> Callable[[Tensor, Tensor], float]:
    """The distance of two tensors as a share of the second."""
    return lambda a, b: float((a.float() - b.float()).norm() / b.float().norm())
