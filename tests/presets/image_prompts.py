"""Tiny IP-Adapters of each variant in the layout of their authors, and the reference's pipeline that reads them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.control.image_prompt import ImagePrompt
from sfumato.components.image_processor import CLIPImageProcessor

from .support import Result, quiet

VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "image_size": 32,
    "patch_size": 8, "projection_dim": 24, "hidden_act": "gelu",
}  # fmt: skip
FACE = 20
Tensors = dict[str, Tensor]


class Files:
    """Makes the tensors of an IP-Adapter for a U-Net of the reference, by the names that its authors publish."""

    def __init__(self, unet: Any, seed: int = 0) -> None:
        self.width = unet.config.cross_attention_dim
        names = list(unet.attn_processors)
        modules = dict(unet.named_modules())
        self.channels = [modules[n.removesuffix(".processor")].to_q.weight.shape[0] for n in names]
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, variant: str) -> Tensors:
        projector: Callable[[], Tensors] = getattr(self, variant.removesuffix("_lora"))
        made = {f"image_proj.{name}": tensor for name, tensor in projector().items()}
        for number, channels in enumerate(self.channels):
            if number % 2:
                for kind in ("k", "v"):
                    made[f"ip_adapter.{number}.to_{kind}_ip.weight"] = self.matrix(channels, self.width)
            if variant.endswith("_lora"):
                for kind in ("q", "k", "v", "out"):
                    into = self.width if number % 2 and kind in ("k", "v") else channels
                    name = f"ip_adapter.{number}.to_{kind}_lora"
                    made[f"{name}.down.weight"] = self.matrix(4, into)
                    made[f"{name}.up.weight"] = self.matrix(channels, 4)
        return made

    def matrix(self, rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=self.generator) / columns**0.5

    def linear(self, name: str, columns: int, rows: int) -> Tensors:
        return {f"{name}.weight": self.matrix(rows, columns), f"{name}.bias": self.matrix(1, rows)[0]}

    def norm(self, name: str, width: int) -> Tensors:
        return {f"{name}.weight": 1 + self.matrix(1, width)[0], f"{name}.bias": self.matrix(1, width)[0]}

    def base(self) -> Tensors:
        return self.linear("proj", VISION["projection_dim"], 4 * self.width) | self.norm("norm", self.width)

    def full(self) -> Tensors:
        image = VISION["hidden_size"]
        return (
            self.linear("proj.0", image, image) | self.linear("proj.2", image, self.width)
            | self.norm("proj.3", self.width)
        )  # fmt: skip

    def plus(self) -> Tensors:
        inner = 40
        latents = {"latents": self.matrix(1 * 6, inner)[None]}
        return latents | self.resampler("", VISION["hidden_size"], inner)

    def resampler(self, head: str, image: int, inner: int) -> Tensors:
        made = self.linear(f"{head}proj_in", image, inner) | self.linear(f"{head}proj_out", inner, self.width)
        made |= self.norm(f"{head}norm_out", self.width)
        for number in range(4):
            at = f"{head}layers.{number}"
            made |= self.norm(f"{at}.0.norm1", inner) | self.norm(f"{at}.0.norm2", inner)
            made[f"{at}.0.to_q.weight"] = self.matrix(128, inner)
            made[f"{at}.0.to_kv.weight"] = self.matrix(256, inner)
            made[f"{at}.0.to_out.weight"] = self.matrix(inner, 128)
            made |= self.norm(f"{at}.1.0", inner)
            made[f"{at}.1.1.weight"] = self.matrix(4 * inner, inner)
            made[f"{at}.1.3.weight"] = self.matrix(inner, 4 * inner)
        return made

    def face(self, tokens: int = 4) -> Tensors:
        return (
            self.linear("proj.0", FACE, 2 * FACE) | self.linear("proj.2", 2 * FACE, tokens * self.width)
            | self.norm("norm", self.width)
        )  # fmt: skip

    def portrait(self) -> Tensors:
        return self.face(16)

    def face_plus(self) -> Tensors:
        return self.face() | self.resampler("perceiver_resampler.", VISION["hidden_size"], self.width)


def two_dicts(tensors: Mapping[str, Tensor]) -> dict[str, Tensors]:
    """The tensors as a `.bin` file has them: a dict for the projector, and one for the attention."""
    made: dict[str, Tensors] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        made[head][rest] = tensor.clone()
    return made


class ImageReference:
    """A pipeline of the reference with IP-Adapters. Each call has its own U-Net, since adapters change it."""

    def __init__(self, diffusers: Any, pipe: Any, encoder: Any) -> None:
        self.diffusers, self.pipe, self.encoder = diffusers, pipe, encoder

    def __call__(
        self, adapters: Sequence[Mapping[str, Tensor]], *, scale: Any = 1.0, scheduler: str = "", seed: int = 0,
        before: Callable[[Any], None] = lambda pipe: None, **inputs: Any,
    ) -> Result:  # fmt: skip
        with quiet():
            config = self.pipe.scheduler.config
            parts = {**self.pipe.components, "unet": copy.deepcopy(self.pipe.unet), "image_encoder": self.encoder}
            parts["scheduler"] = getattr(self.diffusers, scheduler or config["_class_name"]).from_config(config)
            transformers: Any = import_module("transformers")
            parts["feature_extractor"] = transformers.CLIPImageProcessor(
                size=VISION["image_size"], crop_size=VISION["image_size"]
            )
            pipe = type(self.pipe)(**parts, **({} if "text_encoder_2" in parts else {"requires_safety_checker": False}))
            count = len(adapters)
            pipe.load_ip_adapter(
                [two_dicts(one) for one in adapters], [""] * count, [""] * count, image_encoder_folder=None
            )
            pipe.set_ip_adapter_scale(scale)
            before(pipe)
            pipe.set_progress_bar_config(disable=True)
            last: list[Tensor] = []

            def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
                last[:] = [values["latents"]]
                return {}

            generator = torch.Generator("cpu").manual_seed(seed)
            images = pipe(generator=generator, callback_on_step_end=keep, output_type="np", **inputs).images
        return Result(last[0], np.asarray(images))


FACES = torch.randn(1, FACE, generator=torch.Generator().manual_seed(8))


def of_diffusers(faces: Tensor) -> list[Tensor]:
    """Embeddings of faces as the reference takes them: the negative row first."""
    return [torch.stack([torch.zeros_like(faces), faces])]


class Images:
    """Ours and the reference's, on one tiny checkpoint."""

    def __init__(self, pipe: Graph, theirs: ImageReference, encoder: Any, processor: Any, folder: Path) -> None:
        self.pipe, self.theirs, self.encoder, self.processor, self.folder = pipe, theirs, encoder, processor, folder
        self.checkpoint = Path()

    def file(self, variant: str, seed: int = 0) -> tuple[dict[str, Tensor], Path]:
        tensors = Files(self.theirs.pipe.unet, seed)(variant)
        place = self.folder / f"{variant}_{seed}.safetensors"
        save_file(tensors, place)
        return tensors, place

    def ours(self, place: Path, **config: Any) -> Graph:
        adapter = sf.load_component(place, config=config or None)
        prompted = self.pipe.insert("face", ImagePrompt(), before="denoise.guider").bind(ip_adapter=adapter)
        if adapter.reads:
            prompted = prompted.bind(image_encoder=self.encoder, feature_extractor=self.processor)
        return prompted


def vision(folder: Any) -> tuple[Any, Any, CLIPImageProcessor]:
    """A tiny image encoder: the reference's, ours with the same weights, and the processor of ours."""
    transformers: Any = import_module("transformers")
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION)).eval()
        theirs.save_pretrained(folder)
    ours = sf.models.CLIPVisionModelWithProjection.from_pretrained(folder)
    side = VISION["image_size"]
    return theirs.requires_grad_(False), ours, CLIPImageProcessor(size=side, crop_size=side)
