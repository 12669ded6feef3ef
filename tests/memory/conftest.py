"""A simulated device, and five checkpoints that share their towers and autoencoder."""

import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.device_map import DeviceMap
from sfumato.components.memory.mover import Mover
from sfumato.components.memory.offloaded import WeightStream
from sfumato.components.memory.tensors import Parts, parts_of, total_bytes
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.spec import ComponentSpec

EMBEDDED = Path(sf.__file__).parent / "presets" / "embedded" / "emoji"
GPU = "cuda:0"


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class Simulated(Mover):
    """Any device beside the CPU is memory of the CPU that is counted apart.

    It counts what is alive, whoever holds it, and not what the manager believes: `peak` by device.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.peak: dict[str, int] = {}
        self._where: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._parts: weakref.WeakKeyDictionary[nn.Module, Parts] = weakref.WeakKeyDictionary()
        self._copies: list[tuple[weakref.ref[Tensor], str, int]] = []
        self._lock = threading.Lock()

    def check_device(self, device: str) -> None:
        """This machine has every device."""

    def read(self, spec: ComponentSpec, dtype: str, device: str | DeviceMap) -> Any:  # any component
        assert isinstance(device, str)
        made = super().read(spec, dtype, "cpu")
        self._place(made, device, f"read {spec.subfolder} to {device}")
        return made

    def move(self, component: Any, device: str | DeviceMap) -> None:  # any component
        assert isinstance(device, str)
        self._place(component, device, f"move {type(component).__name__} to {device}")

    def stream(self, device: str, count: int, prefetch: bool) -> WeightStream:
        def carried(tensor: Tensor, place: torch.device, dtype: torch.dtype) -> Tensor:
            copy = torch.empty_like(tensor, device=place, dtype=dtype).copy_(tensor)
            with self._lock:
                self._copies.append((weakref.ref(copy), device, copy.nbytes))
                self._copies = [(alive, where, size) for alive, where, size in self._copies if alive() is not None]
            self._measure()
            return copy

        return WeightStream(torch.device("cpu"), count=count, prefetch=prefetch, copy=carried)

    def parts(self, component: Any) -> Parts:  # any component
        if not isinstance(component, nn.Module):
            return {}
        known = self._parts.get(component)  # measured often, and moves of a simulated device change nothing
        if known is None:
            known = self._parts[component] = parts_of(component)
        return {(self._where.get(component, "cpu"), part): size for part, size in known.items()}

    def _place(self, component: Any, device: str, what: str) -> None:
        if isinstance(component, nn.Module):
            with self._lock:
                self._parts.pop(component, None)  # it may have been made narrower since it was read
                self._where[component] = device
                self.log.append(what)
            self._measure()

    def _measure(self) -> None:
        with self._lock:
            for place in dict.fromkeys([*self._where.values(), *(where for _, where, _ in self._copies)]):
                alive = total_bytes(self.parts(m) for m, where in list(self._where.items()) if where == place)
                alive += sum(size for copy, where, size in self._copies if where == place and copy() is not None)
                self.peak[place] = max(self.peak.get(place, 0), alive)


@pytest.fixture
def simulated() -> Simulated:
    return Simulated()


@pytest.fixture(scope="session")
def five(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five checkpoints: each has a U-Net of its own, and all name one text tower, tokenizer, scheduler and VAE."""
    folders: list[Path] = []
    config = {**json.loads((EMBEDDED / "unet" / "config.json").read_text()), "block_out_channels": [64, 112]}
    config |= {"layers_per_block": 1, "norm_num_groups": 16}
    for key in ("down_block_types", "up_block_types"):
        config[key] = ["CrossAttnDownBlock2D", "DownBlock2D"] if "down" in key else ["UpBlock2D", "CrossAttnUpBlock2D"]
    for seed in range(5):
        folder = tmp_path_factory.mktemp(f"checkpoint-{seed}")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            UNet2DConditionModel.from_config(config).half().save_pretrained(folder / "unet")
        index = json.loads((EMBEDDED / "model_index.json").read_text())
        modular: dict[str, Any] = {"_class_name": "StableDiffusionModularPipeline", "_blocks_class_name": None}
        for name, hint in index.items():
            if isinstance(hint, list) and hint[0]:
                source = folder if name == "unet" else EMBEDDED
                spec = {"pretrained_model_name_or_path": str(source), "subfolder": name, "type_hint": hint}
                modular[name] = [*hint, {**spec, "variant": None, "revision": None}]
        (folder / "modular_model_index.json").write_text(json.dumps(modular))
        folders.append(folder)
    return folders


def draw(pipe: sf.Graph, seed: int = 1, **more: Any) -> Tensor:
    """A small picture."""
    out: Tensor = pipe(prompt="a fish", seed=seed, num_inference_steps=1, output_type="pt", **more).images
    return out


@pytest.fixture(scope="session")
def pictures(five: list[Path]) -> list[Tensor]:
    """What the five give where memory is no concern."""
    return [draw(sf.load(folder, manager=sf.ComponentsManager())) for folder in five]
