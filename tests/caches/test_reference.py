"""Step caches give the numbers of diffusers' hooks, for a pass of one row."""

from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato.blocks.denoise.flux import packed, token_ids, unpacked
from sfumato.components.caches import FLUX_MAG_RATIOS, StepCache
from sfumato.components.caches.measured import sea_filter
from sfumato.components.schedulers.schedule import Level

from .support import CONFIGS, asks, drive, noise, predict_of, schedule

C = sf.caches
TOLERANCE = 2e-5  # float32; measured: at most 2e-6


def weight(_module: Any) -> float:
    return 0.4


HOOKS: dict[str, tuple[StepCache, str, dict[str, Any]]] = {
    "first_block": (C.FirstBlockCacheConfig(2.0), "FirstBlockCacheConfig", {"threshold": 2.0}),
    "magcache": (
        C.MagCacheConfig(0.2, 2, 0.1, FLUX_MAG_RATIOS),
        "MagCacheConfig",
        {"threshold": 0.2, "max_skip_steps": 2, "retention_ratio": 0.1, "num_inference_steps": 8},
    ),
    "taylorseer": (
        C.TaylorSeerCacheConfig(3, 2, 7, 2),
        "TaylorSeerCacheConfig",
        {
            "cache_interval": 3,
            "disable_cache_before_step": 2,
            "disable_cache_after_step": 7,
            "max_order": 2,
            "taylor_factors_dtype": torch.float32,
        },
    ),
    "pyramid_attention": (
        C.PyramidAttentionBroadcastConfig(2, spatial_attention_timestep_skip_range=(100, 900)),
        "PyramidAttentionBroadcastConfig",
        {"spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": (100, 900)},
    ),
    "faster_cache": (
        C.FasterCacheConfig(3, (-1, 900), attention_weight=0.4),
        "FasterCacheConfig",
        {
            "spatial_attention_block_skip_range": 3,
            "spatial_attention_timestep_skip_range": (-1, 900),
            "is_guidance_distilled": True,
            "attention_weight_callback": weight,
            "tensor_format": "BCHW",
        },
    ),
}
BLOCKS, LAST = r"(single_)?transformer_blocks\.[0-9]+", r"single_transformer_blocks\.2"
"""TaylorSeer of diffusers continues what it is told to: in our way the last block, and the others return zeros."""


@pytest.fixture
def pair(read_random: Any) -> Callable[[str], tuple[Any, Any]]:
    return lambda family: read_random(*CONFIGS[family])


def _no_context(_name: str) -> Any:
    return nullcontext()


class Theirs:
    """A transformer of diffusers with a hook, called as a pipeline calls it."""

    def __init__(self, family: str, model: Any, hook: str, settings: dict[str, Any]) -> None:
        self.family, self.model, self.timestep = family, model, 0.0
        hooks: Any = import_module("diffusers.hooks")
        settings = dict(settings)
        if hook in ("PyramidAttentionBroadcastConfig", "FasterCacheConfig"):
            settings["current_timestep_callback"] = lambda: self.timestep
        if hook == "MagCacheConfig":
            settings["mag_ratios"] = torch.tensor(FLUX_MAG_RATIOS)
        if hook == "TaylorSeerCacheConfig":
            settings |= {"cache_identifiers": [LAST], "skip_predict_identifiers": [rf"(?!{LAST}$){BLOCKS}"]}
        config = getattr(hooks, hook)(**settings)
        self.context: Any = getattr(model, "cache_context", _no_context)
        hooks.apply_faster_cache(model, config) if family == "pixart" else model.enable_cache(config)

    def __call__(self, *passes: Any) -> Tensor:
        p, step = passes[0], passes[0].step
        self.timestep = float(step.timestep)
        tokens = torch.cat([p.conditioning.tokens for p in passes])
        with self.context("cond"):
            if self.family == "pixart":
                out = self.model(
                    hidden_states=p.latents.expand(len(passes), -1, -1, -1),
                    encoder_hidden_states=tokens,
                    timestep=step.t.expand(len(passes)),
                    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                )
                return out[0][:, :4]
            out = self.model(
                hidden_states=packed(p.latents),
                encoder_hidden_states=tokens,
                pooled_projections=p.conditioning.pooled,
                timestep=step.t.expand(1) / 1000,
                img_ids=token_ids(((8, 8),), torch.device("cpu")),
                txt_ids=torch.zeros(5, 3),
            )
            return unpacked(out[0], 8, 8)


@pytest.mark.parametrize("name", HOOKS)
def test_a_pass_is_as_with_the_hook(pair: Callable[[str], tuple[Any, Any]], name: str) -> None:
    cache, hook, settings = HOOKS[name]
    ours, theirs = pair("flux")
    ask = asks("flux", ("positive",))
    found = drive("flux", cache, ask=ask, predict=predict_of("flux", ours))
    assert found.skipped.steps
    reference = Theirs("flux", theirs, hook, settings)
    for x, step, made in zip(found.latents, schedule("flux", 8), found.predictions, strict=True):
        torch.testing.assert_close(made[0], reference(ask(x, step)[0]), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_negative_predictions_are_made_as_by_the_hook(pair: Callable[[str], tuple[Any, Any]]) -> None:
    between, more = (-1, 900), {"attention_weight_callback": weight, "tensor_format": "BCHW"}
    settings: dict[str, Any] = {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_timestep_skip_range": between,
        "unconditional_batch_skip_range": 3,
        "unconditional_batch_timestep_skip_range": between,
    }
    ours, theirs = pair("pixart")
    ask = asks("pixart")
    cache = C.FasterCacheConfig(attention_weight=0.4, **settings)
    found = drive("pixart", cache, ask=ask, predict=predict_of("pixart", ours))
    assert {p.role for p in found.skipped.passes if p.skipped} == {"negative", "positive"}
    reference = Theirs("pixart", theirs, "FasterCacheConfig", {**settings, **more})
    for x, step, made in zip(found.latents, schedule("pixart", 8), found.predictions, strict=True):
        torch.testing.assert_close(torch.cat(made), reference(*ask(x, step)), atol=TOLERANCE, rtol=TOLERANCE)


def test_the_filter_of_seacache_is_theirs() -> None:
    theirs: Any = import_module("diffusers.hooks.sea_cache")
    latents = noise(1, 1, 4, 6, 9)
    for sigma in (0.05, 0.5, 0.95):
        expected = theirs._apply_sea_filter(latents[0][:, None].movedim(0, -1), sigma, 3.0).movedim(-1, 0)[:, 0]
        torch.testing.assert_close(sea_filter(latents, Level(1 - sigma, sigma), 3.0)[0], expected, atol=1e-5, rtol=1e-5)
