"""What the tests of quantization share: the embedded U-Net and its inputs, and the packages that quantize."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeGuard

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "presets/embedded/emoji"

Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  a fixture
    with torch.no_grad():
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
    """Imports a package that quantizes, or skips the test where this platform has none: `dev` brings all of them."""

    def imported(name: str) -> Any:  # untyped packages
        try:
            made = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:  # it is here, and broken
                raise
            return pytest.skip(f"{name} is not installed")
        if name == "optimum.quanto":
            # Or the first int4 weight compiles quanto's C++, which takes a compiler and more than a minute.
            extensions: Any = import_module("optimum.quanto.library.extensions")
            extensions.get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=_unpacked)
        return made

    return imported


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """What quanto's extension does: the lowest bits of all bytes, then the next."""
    return torch.cat([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)])


PACKAGES: Mapping[str, str] = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "quanto": "optimum.quanto"}
"""By the quant_method."""


class Alive(TorchDispatchMode):
    """Counts the bytes of the storages that torch's operations have made and that are still alive.

    What is memory-mapped from a file is made by no operation, and is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:  # any operation of torch
        came = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if _plain(t)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if _plain(tensor) and "from_file" not in str(func):
                self._count(tensor.untyped_storage(), came)
        return made

    def _count(self, storage: torch.UntypedStorage, came: set[int]) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._seen or place in came:  # a view of what was there before
            return
        self._seen.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        # Of the storage, not of the tensor: a parameter made of a tensor outlives it.
        weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size


def _plain(value: object) -> TypeGuard[Tensor]:
    return type(value) is Tensor and not value.is_meta


@pytest.fixture
def alive() -> Alive:
    """A count of live bytes, to be entered."""
    return Alive()


@pytest.fixture
def apart() -> Callable[[Tensor, Tensor], float]:
    """The distance of two tensors as a share of the second."""
    return lambda a, b: float((a.float() - b.float()).norm() / b.float().norm())
