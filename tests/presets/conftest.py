"""Checkpoints that the tests of presets run on: the embedded real model, and tiny random ones that diffusers saved."""

import json
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato import Graph

from .checkpoints import TEXT, VAE, clip, clip_tokenizer, loaded_by_them, loaded_by_us, saved
from .comfyui_models import comfy_models as comfy_models
from .sdxl import xl as xl
from .sdxl import xl_checkpoint as xl_checkpoint
from .sdxl import xl_reference as xl_reference
from .support import EMBEDDED, Apart, Reference, Result, apart
from .whole_files import whole_file as whole_file


@pytest.fixture(scope="session")
def diffusers() -> Any:  # a lazy module: its attributes are made when asked for
    """The reference implementation, which the library never imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers: Any = import_module("transformers")
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        module: Any = import_module("diffusers")
        for name in Reference.CLASSES.values():
            getattr(module, name)
    module.utils.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module


@pytest.fixture(scope="session")
def emoji() -> Graph:
    """The embedded real model, text to image, loaded from its folder."""
    return sf.load(EMBEDDED)


@pytest.fixture(scope="session")
def emoji_reference(diffusers: Any) -> Reference:
    return Reference(diffusers, EMBEDDED)


# ---------------------------------------------------------------------------------------------------- tiny checkpoints
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CHECKPOINTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "sd": ("StableDiffusionPipeline", {}, {}, {}),
    "sd-inpainting": ("StableDiffusionInpaintPipeline", {"in_channels": 9}, {}, {}),
    "sd-lcm": ("LatentConsistencyModelPipeline", {"time_cond_proj_dim": 12}, {}, {}),
    "sd2": (
        "StableDiffusionPipeline",
        {"use_linear_projection": True, "attention_head_dim": (2, 4)},
        {"hidden_act": "gelu"},
        {"prediction_type": "v_prediction"},
    ),
}


@pytest.fixture(scope="session")
def checkpoint(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random checkpoint, which diffusers made and saved."""

    def make(name: str) -> Any:
        pipeline, unet, text, noise = CHECKPOINTS[name]
        return getattr(diffusers, pipeline)(
            unet=diffusers.UNet2DConditionModel(**{**UNET, **unet}),
            vae=diffusers.AutoencoderKL(**VAE),
            text_encoder=clip({**TEXT, **text}),
            tokenizer=clip_tokenizer(),
            scheduler=diffusers.DDIMScheduler(**{**NOISE, **noise}),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    return saved(tmp_path_factory, make)


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[[str], Path]) -> Callable[..., Graph]:
    """Loads a tiny checkpoint with ours."""
    return loaded_by_us(checkpoint, "sd")


@pytest.fixture(scope="session")
def tiny_reference(diffusers: Any, checkpoint: Callable[[str], Path]) -> Callable[..., Reference]:
    """Loads a tiny checkpoint with diffusers."""
    return loaded_by_them(diffusers, checkpoint, Reference, "sd")


@pytest.fixture
def same(request: pytest.FixtureRequest) -> Callable[..., Apart]:
    """Checks that two results agree: latents within 1e-4, and pixels far below one step of 255."""

    def check(ours: Result, theirs: Result, *, latents: float = 1e-4, pixels: float = 0.05) -> Apart:
        far = apart(ours, theirs)
        request.node.user_properties += far._asdict().items()  # for reports: --junitxml shows them
        assert far.latents < latents
        assert far.pixels < pixels
        return far

    return check


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint that a test may spoil."""
    return shutil.copytree(EMBEDDED, tmp_path / "checkpoint")


@pytest.fixture
def reconfigure() -> Callable[..., None]:
    """Changes keys of a JSON file."""

    def change(file: Path, **keys: Any) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))

    return change
