"""Components that were not made for each other are refused when they are bound, by their configs alone."""

from typing import Any

import pytest

import sfumato as sf
from sfumato import ComponentSpec, Graph, WireError
from sfumato.blocks.control.controlnet import ApplyControlNet
from sfumato.blocks.control.flux import ApplyControlNet as ApplyFluxControlNet
from sfumato.blocks.control.sd3 import ApplyControlNet as ApplySD3ControlNet

from .support import fresh


def part(name: str, library: str = "diffusers", **config: Any) -> ComponentSpec:
    """A component of which only the config is known: published numbers, no files."""
    return ComponentSpec(type_hint=(library, name), config=config)


def clip(width: int, projected: int | None = None) -> ComponentSpec:
    name = "CLIPTextModel" if projected is None else "CLIPTextModelWithProjection"
    return part(name, "transformers", model_type="clip_text_model", hidden_size=width, projection_dim=projected or 512)


def t5(width: int) -> ComponentSpec:
    return part("T5EncoderModel", "transformers", model_type="t5", d_model=width)


def unet(tokens: int, levels: int = 4, **more: Any) -> ComponentSpec:
    widths = [320, 640, 1280, 1280][:levels]
    return part("UNet2DConditionModel", cross_attention_dim=tokens, block_out_channels=widths, out_channels=4, **more)


def xl_unet(tokens: int = 2048, added: int = 2816) -> ComponentSpec:
    told: dict[str, Any] = {"projection_class_embeddings_input_dim": added, "addition_time_embed_dim": 256}
    return unet(tokens, 3, addition_embed_type="text_time", **told)


def flux(name: str = "FluxTransformer2DModel", *, tokens: int = 4096, pooled: int = 768, heads: int = 24) -> Any:
    widths: dict[str, Any] = {"joint_attention_dim": tokens, "pooled_projection_dim": pooled}
    return part(name, num_attention_heads=heads, attention_head_dim=128, in_channels=64, **widths)


def sd3(
    name: str = "SD3Transformer2DModel", *, tokens: int | None = 4096, pooled: int = 2048, heads: int = 24, **more: Any
) -> ComponentSpec:
    widths: dict[str, Any] = {
        "joint_attention_dim": tokens,
        "pooled_projection_dim": pooled,
        "in_channels": 16,
        "out_channels": 16,
    }
    return part(name, num_attention_heads=heads, attention_head_dim=64, **{**widths, **more})


def pixart(**config: Any) -> ComponentSpec:
    return part("PixArtTransformer2DModel", in_channels=4, out_channels=8, **config)


FITTING: dict[str, dict[str, ComponentSpec]] = {
    "sd": {"text_encoder": clip(768), "unet": unet(768)},
    "sdxl": {"text_encoder": clip(768), "text_encoder_2": clip(1280, 1280), "unet": xl_unet()},
    "flux": {"text_encoder": clip(768), "text_encoder_2": t5(4096), "transformer": flux()},
    "sd3": {
        "text_encoder": clip(768, 768),
        "text_encoder_2": clip(1280, 1280),
        "text_encoder_3": t5(4096),
        "transformer": sd3(),
    },
    "pixart": {"text_encoder": t5(4096), "transformer": pixart(caption_channels=4096, cross_attention_dim=1152)},
}


def pipe(family: str) -> Graph:
    manager = fresh()
    return sf.load(family).bind(**{name: manager.handle(spec) for name, spec in FITTING[family].items()})


@pytest.mark.parametrize("family", FITTING)
def test_published_numbers_go_together(family: str) -> None:
    assert pipe(family).bindings.keys() == FITTING[family].keys()


MISFITS: dict[str, tuple[str, dict[str, ComponentSpec], str]] = {
    "SD 2's U-Net": (
        "sd",
        {"unet": unet(1024)},
        r"predict \(unet\).*1024.*positive \(text_encoder\) .*token_width 768",
    ),
    "SD 2's text encoder": ("sd", {"text_encoder": clip(1024)}, r"token_width 1024.* token_width 768|768.* 1024"),
    "the refiner's U-Net": (
        "sdxl",
        {"unet": xl_unet(1280, 2560)},
        r"\(unet\).* token_width 1280.*positive \(text_encoder, text_encoder_2\) .*token_width 2048",
    ),
    "a first tower in place of the second": (
        "sdxl",
        {"text_encoder_2": clip(768, 768)},
        r"pooled_width 1280 or 1536, token_width 2048.* pooled_width 768, token_width 1536",
    ),
    "an SD U-Net": ("sdxl", {"unet": unet(768)}, r"token_width 768.* token_width 2048"),
    "a smaller T5": (
        "flux",
        {"text_encoder_2": t5(2048)},
        r"token_width 4096.*\(text_encoder_2, text_encoder\) has token_width 2048",
    ),
    "a larger CLIP": ("flux", {"text_encoder": clip(1280)}, r"pooled_width 768.* pooled_width 1280"),
    "a smaller T5 for SD 3": ("sd3", {"text_encoder_3": t5(1024)}, r"token_width 4096.* token_width 1024"),
    "a tower twice": ("sd3", {"text_encoder_2": clip(768, 768)}, r"pooled_width 2048.* pooled_width 1536"),
    "a smaller T5 for PixArt": ("pixart", {"text_encoder": t5(1024)}, r"token_width 4096.* token_width 1024"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_prompt_of_another_width_is_refused_when_it_is_bound(misfit: str) -> None:
    family, given, told = MISFITS[misfit]
    with pytest.raises(WireError, match=told) as caught:
        pipe(family).bind(**given)
    (problem,) = caught.value.problems  # one, however many prompts the graph has
    assert problem.code == "layout"
    assert "Bind components of one checkpoint, all in one call" in str(problem)


def test_both_at_once_may_be_of_another_width() -> None:
    assert pipe("sd").bind(unet=unet(1024), text_encoder=clip(1024)).bindings["unet"].spec == unet(1024)


def test_a_config_that_does_not_say_fits_anything() -> None:
    assert pipe("sd").bind(unet=part("UNet2DConditionModel", out_channels=4))
    assert pipe("sd").bind(text_encoder=part("CLIPTextModel", "transformers"))
    assert pipe("sdxl").bind(unet=xl_unet(added=2560))  # five sizes or six: a task's own affair


NETS: dict[str, tuple[str, Any, ComponentSpec, str]] = {
    "for SD 2": (
        "sd",
        ApplyControlNet(),
        part("ControlNetModel", cross_attention_dim=1024, block_out_channels=[320, 640, 1280, 1280], in_channels=4),
        r"control \(controlnet\)  has token_width 1024, but denoise.predict \(unet\) has token_width 768",
    ),
    "narrower for Flux": (
        "flux",
        ApplyFluxControlNet(),
        flux("FluxControlNetModel", heads=12),
        r"control \(controlnet\)  has width 1536, but denoise.predict \(transformer\) has width 3072",
    ),
    "for another T5": (
        "flux",
        ApplyFluxControlNet(),
        flux("FluxControlNetModel", tokens=2048),
        r"has token_width 2048, but denoise.predict \(transformer\) has token_width 4096",
    ),
    "for SD 3.5 large": (
        "sd3",
        ApplySD3ControlNet(),
        sd3("SD3ControlNetModel", tokens=None, heads=38),
        r"has width 2432, but denoise.predict \(transformer\) has width 1536",
    ),
    "of other latents": (
        "sd3",
        ApplySD3ControlNet(),
        sd3("SD3ControlNetModel", in_channels=4),
        r"works in the latent space 4 channels, but .* works in 16 channels",
    ),
}


@pytest.mark.parametrize("net", NETS)
def test_a_net_for_another_denoiser_is_refused_when_it_is_bound(net: str) -> None:
    family, block, spec, told = NETS[net]
    with pytest.raises(WireError, match=told) as caught:
        pipe(family).insert("control", block, before="denoise.guider").bind(controlnet=spec)
    assert len(caught.value.problems) == 1


def test_a_net_that_reads_no_prompt_fits_any() -> None:
    graph = pipe("sd3").insert("control", ApplySD3ControlNet(), before="denoise.guider")
    assert graph.bind(controlnet=sd3("SD3ControlNetModel", tokens=None)).bindings["controlnet"]


def test_zeros_in_place_of_t5_are_as_wide_as_the_graph_says() -> None:
    parts: dict[str, Any] = {name: spec for name, spec in FITTING["sd3"].items() if name != "text_encoder_3"}
    without = sf.load("sd3", **parts)
    assert without.bindings.keys() == parts.keys()
    with pytest.raises(
        WireError, match=r"token_width 2048.*\(width, text_encoder, text_encoder_2\) has token_width 4096"
    ):
        without.bind(transformer=sd3(tokens=2048))


@pytest.mark.parametrize("channels", [4, 16])
def test_an_autoencoder_of_other_latents_is_refused(channels: int) -> None:
    vae = part("AutoencoderKL", latent_channels=channels, scaling_factor=0.18215)
    family = "sd" if channels == 16 else "flux"
    with pytest.raises(WireError, match=rf"latent space {channels} channels.* works in {20 - channels} channels"):
        pipe(family).bind(vae=vae)
