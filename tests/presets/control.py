"""Tiny control nets and adapters, ours and the reference's with the same weights, and the pipelines that take them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Block, Graph
from sfumato.blocks.control.controlnet import ApplyControlNet, ApplyControlNetUnion
from sfumato.blocks.control.t2i_adapter import ApplyT2IAdapter

from .support import Result, quiet

EMBEDDING = {"conditioning_embedding_out_channels": (4, 8, 8, 8)}
UNION = {"num_trans_channel": 16, "num_proj_channel": 16, "num_trans_head": 2, "addition_time_embed_dim": 8}
PIPELINES: Mapping[str, tuple[str, str, str]] = {
    "control": ("ControlNetPipeline", "ControlNetImg2ImgPipeline", "ControlNetInpaintPipeline"),
    "union": ("ControlNetUnionPipeline", "ControlNetUnionImg2ImgPipeline", "ControlNetUnionInpaintPipeline"),
    "adapter": ("AdapterPipeline", "", ""),
}
TASKS = ("text2image", "image2image", "inpaint")


class Net(NamedTuple):
    """A net of ours and the reference's, with the same weights."""

    ours: Any
    theirs: Any


class Nets:
    """Makes nets that fit a U-Net of the reference."""

    def __init__(self, diffusers: Any, folder: Callable[[], Any]) -> None:
        self.diffusers, self.folder = diffusers, folder

    def control(self, unet: Any, seed: int = 0, **config: Any) -> Net:
        return self._made("ControlNetModel", unet, seed, {**EMBEDDING, **config})

    def union(self, unet: Any, seed: int = 0, **config: Any) -> Net:
        return self._made("ControlNetUnionModel", unet, seed, {**EMBEDDING, **UNION, **config})

    def adapter(self, seed: int = 0, **config: Any) -> Net:
        return self._made("T2IAdapter", None, seed, config)

    def _made(self, name: str, unet: Any, seed: int, config: dict[str, Any]) -> Net:
        kind = getattr(self.diffusers, name)
        with quiet(), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            shared = {} if unet is None else dict(unet.config)
            keys = signature(kind.__init__).parameters
            shared = {key: value for key, value in shared.items() if key in keys}
            if name == "ControlNetUnionModel" and shared.get("addition_time_embed_dim"):
                config = {**config, "addition_time_embed_dim": shared["addition_time_embed_dim"]}
            theirs = kind(**{**shared, **config, **({} if unet is None else {"in_channels": 4})}).eval()
            for weight in theirs.parameters():
                if not weight.any():
                    weight.copy_(torch.randn_like(weight) * 0.1)
            place = self.folder()
            theirs.save_pretrained(place)
        return Net(getattr(sf.models, name).from_pretrained(place), theirs.requires_grad_(False))


@pytest.fixture(scope="session")
def nets(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Nets:
    return Nets(diffusers, lambda: tmp_path_factory.mktemp("net"))


class ControlReference:
    """The pipelines of diffusers that take control nets, on the parts of one that does not.

    The control image is called so in all of them here.
    """

    def __init__(self, diffusers: Any, pipe: Any, prefix: str) -> None:
        self.diffusers, self.pipe, self.prefix = diffusers, pipe, prefix

    def __call__(
        self,
        task: str,
        net: Any,
        kind: str = "control",
        scheduler: str = "",
        seed: int | Sequence[int] = 0,
        **inputs: Any,
    ) -> Result:
        with quiet():
            config = self.pipe.scheduler.config
            made = getattr(self.diffusers, scheduler or config["_class_name"]).from_config(config)
            name = self.prefix + PIPELINES[kind][TASKS.index(task)]
            held = {"adapter" if kind == "adapter" else "controlnet": net}
            pipeline = getattr(self.diffusers, name)
            taken = signature(pipeline.__init__).parameters
            parts = {**self.pipe.components, "requires_safety_checker": False, "add_watermarker": False}
            parts = {n: part for n, part in parts.items() if n in taken}
            pipe = pipeline(**{**parts, "scheduler": made, **held})
            pipe.set_progress_bar_config(disable=True)
            control = inputs.pop("control_image", None)
            if control is not None:
                as_image = task == "text2image" and kind != "union"
                inputs["image" if as_image else "control_image"] = control
            last: list[Tensor] = []

            def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
                last[:] = [values["latents"]]
                return {}

            def keep_latents(_step: int, _t: Any, latents: Tensor) -> None:
                last[:] = [latents]

            seeds = [torch.Generator("cpu").manual_seed(s) for s in ([seed] if isinstance(seed, int) else seed)]
            watch: dict[str, Any] = {"callback_on_step_end": keep}
            if kind == "adapter":  # these pipelines know only the older way to look on
                watch = {"callback": keep_latents, "callback_steps": 1}
            images = pipe(
                generator=seeds[0] if isinstance(seed, int) else seeds, output_type="np", **watch, **inputs
            ).images
        return Result(last[0], images)


def controlled(pipe: Graph, block: Block | None = None, name: str = "control") -> Graph:
    """A preset with a block of control in place: one insert."""
    return pipe.insert(name, block or ApplyControlNet(), before="denoise.guider")


def with_union(pipe: Graph) -> Graph:
    return controlled(pipe, ApplyControlNetUnion())


def with_adapter(pipe: Graph) -> Graph:
    return controlled(pipe, ApplyT2IAdapter(), "adapt")


@contextmanager
def rows_of(*nets: nn.Module) -> Any:
    """The rows of each forward of these nets, in a list for each."""
    rows: list[list[int]] = [[] for _ in nets]
    hooks = [
        net.register_forward_hook(lambda _m, args, _out, mine=mine: mine.append(len(args[0])))
        for net, mine in zip(nets, rows, strict=True)
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()
