"""Tiny random checkpoints of Flux's kinds, which diffusers made and saved, and its pipelines that read them."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sfumato import Graph

from . import checkpoints
from .support import Reference, Result, quiet

CHANNELS = 4
TRANSFORMER = {
    "in_channels": 4 * CHANNELS,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
VAE = {
    **checkpoints.FLOW_VAE,
    "sample_size": 32,
    "latent_channels": CHANNELS,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
TEXT = {**checkpoints.TEXT, "num_hidden_layers": 2}
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True}
FILL = {"in_channels": 4 * (2 * CHANNELS + 64), "out_channels": 4 * CHANNELS}


class Kind(NamedTuple):
    """What a checkpoint has: keys of its models and of its scheduler, and the class of its pipeline."""

    transformer: Mapping[str, Any] = MappingProxyType({})
    noise: Mapping[str, Any] = DYNAMIC
    pipeline: str = "FluxPipeline"
    vae: Mapping[str, Any] = VAE


SUITE = {
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 4, 8),
}
SUITE_VAE = {
    "sample_size": 32,
    "block_out_channels": (4,),
    "layers_per_block": 1,
    "latent_channels": 1,
    "norm_num_groups": 1,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.0609,
    "scaling_factor": 1.5035,
}
KINDS = {
    "dev": Kind(),
    "schnell": Kind({"guidance_embeds": False}, {"shift": 1.0}),
    "static": Kind(noise={"shift": 3.0}),
    "linear": Kind(noise={**DYNAMIC, "time_shift_type": "linear"}),
    "fill": Kind(FILL, pipeline="FluxFillPipeline"),
    "depth": Kind({"in_channels": 8 * CHANNELS, "out_channels": 4 * CHANNELS}, pipeline="FluxControlPipeline"),
    "kontext": Kind(pipeline="FluxKontextPipeline"),
    "image2image": Kind(pipeline="FluxImg2ImgPipeline"),
    "inpaint": Kind(pipeline="FluxInpaintPipeline"),
    "suite": Kind(SUITE, {}, vae=SUITE_VAE),  # the models of the reference's own tests: a latent for each pixel
}
SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 3, "max_sequence_length": 24}
"""What keeps a run short. A tiny T5 reads every text of these tests within 24 tokens."""


class ReferenceFlux(Reference):
    """A Flux pipeline of diffusers."""

    CLASSES = {  # noqa: RUF012  as its base has it
        "text2image": "FluxPipeline",
        "image2image": "FluxImg2ImgPipeline",
        "inpaint": "FluxInpaintPipeline",
        "fill": "FluxFillPipeline",
        "kontext": "FluxKontextPipeline",
        "kontext inpaint": "FluxKontextInpaintPipeline",
    }

    def __init__(self, diffusers: Any, folder: Path) -> None:
        self.diffusers = diffusers
        with quiet():
            self.pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.config = dict(self.pipe.scheduler.config)
        self.factor = self.pipe.vae_scale_factor

    def __call__(
        self,
        task: str = "text2image",
        scheduler: str = "",
        seed: int | Sequence[int] | torch.Generator = 0,
        **inputs: Any,
    ) -> Result:
        last: list[Tensor] = []

        def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
            last[:] = [values["latents"]]
            return {}

        images = self.ask(task, scheduler, seed, output_type="np", callback_on_step_end=keep, **inputs)
        unpack: Any = self.diffusers.FluxPipeline._unpack_latents
        return Result(unpack(last[0], *images.shape[1:3], self.factor), images)

    def ask(
        self, task: str, scheduler: str = "", seed: int | Sequence[int] | torch.Generator = 0, **inputs: Any
    ) -> Any:
        """The pictures that a pipeline gives."""
        with quiet():
            kind = getattr(self.diffusers, scheduler or self.config["_class_name"])
            held = {name: part for name, part in self.pipe.components.items() if part is not None}
            parts = {**held, "scheduler": kind.from_config(self.config), **self.more()}
            pipe = getattr(self.diffusers, self.CLASSES[task])(**parts)
            pipe.set_progress_bar_config(disable=True)
            return pipe(generator=_generators(seed), **inputs).images

    def more(self) -> dict[str, Any]:
        """Components that the saved checkpoint has not."""
        return {}


def _generators(seed: int | Sequence[int] | torch.Generator) -> torch.Generator | list[torch.Generator]:
    if isinstance(seed, Sequence):
        return [torch.Generator("cpu").manual_seed(s) for s in seed]
    return seed if isinstance(seed, torch.Generator) else torch.Generator("cpu").manual_seed(seed)


@pytest.fixture(scope="session")
def flux_checkpoint(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random checkpoint of one of the `KINDS`."""
    transformers: Any = import_module("transformers")

    def make(name: str) -> Any:
        kind = KINDS[name]
        tokenizer = transformers.T5Tokenizer.from_pretrained(checkpoints.T5_FILES)
        config = transformers.T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
        )
        return getattr(diffusers, kind.pipeline)(
            transformer=diffusers.FluxTransformer2DModel(**{**TRANSFORMER, **kind.transformer}),
            vae=diffusers.AutoencoderKL(**kind.vae),
            text_encoder=checkpoints.clip(TEXT),
            tokenizer=checkpoints.clip_tokenizer(),
            text_encoder_2=transformers.T5EncoderModel(config),
            tokenizer_2=tokenizer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**kind.noise),
        )

    return checkpoints.saved(tmp_path_factory, make)


@pytest.fixture(scope="session")
def flux(flux_checkpoint: Callable[[str], Path]) -> Callable[..., Graph]:
    """Loads a tiny checkpoint with ours."""
    return checkpoints.loaded_by_us(flux_checkpoint, "dev")


@pytest.fixture(scope="session")
def flux_reference(diffusers: Any, flux_checkpoint: Callable[[str], Path]) -> Callable[..., ReferenceFlux]:
    """Loads a tiny checkpoint with diffusers."""
    return checkpoints.loaded_by_them(diffusers, flux_checkpoint, ReferenceFlux, "dev")
