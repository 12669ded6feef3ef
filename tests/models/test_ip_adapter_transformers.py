"""IP-Adapters of SD 3 and Flux give the reference's numbers; a file's tensors show its sizes."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato import UnfitValue
from sfumato.components.models.image_attention import HeldTokens, ImageBranch, ImageTokens, attach_images
from sfumato.components.models.ip_adapter_flux import FluxImagePromptAdapter
from sfumato.components.models.ip_adapter_sd3 import SD3ImagePromptAdapter
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.perturb import Drop, Identity
from sfumato.components.taps.tap import Tap, Taps

SIZE = (8, 10)
"""Of the latents: 4 x 5 tokens."""
TOLERANCE = 1e-5  # float32; measured: at most 4e-6

SD3: dict[str, Any] = {
    "image_width": 12,
    "hidden_dim": 24,
    "num_attention_heads": 2,
    "depth": 4,  # the reference reads no other
    "time_dim": 16,
    "num_tokens": 3,
    "width": 32,
    "attention_head_dim": 8,
    "num_layers": 3,
}
FLUX: dict[str, Any] = {"image_width": 12, "num_tokens": 4, "token_dim": 24, "width": 32, "num_layers": 2}
SD3_MODEL: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
}
FLUX_MODEL: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}
ADAPTERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sd3": (SD3ImagePromptAdapter, SD3),
    "flux": (FluxImagePromptAdapter, FLUX),
}

Pair = tuple[Any, Any]
Apart = Callable[[Tensor, Tensor], float]
Read = Callable[..., Pair]
Adapter = SD3ImagePromptAdapter | FluxImagePromptAdapter


def made(name: str, **changes: Any) -> Any:
    kind, config = ADAPTERS[name]
    adapter = kind(**{**config, **changes}).eval()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.3)
    return adapter


def halves(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The two dicts that the reference reads."""
    split: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        half, _, rest = name.partition(".")
        split[half][rest] = tensor
    return split


def attended(model: Any, adapter: Any, features: Tensor, t: Tensor, scale: float = 1.0, **branch: Any) -> Any:
    """A view of the model that attends to the pictures of these features, one for each row."""
    held = HeldTokens(SIZE)
    image = ImageBranch(adapter, scale, **branch)
    tokens = ImageTokens(image, adapter.layers(adapter.project(features), t))
    held.set([tokens], [len(features)], features.device)
    return attach_images(model, [image], [held])


def sd3_inputs(rows: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"hidden_states": (4, *SIZE), "encoder_hidden_states": (5, 24), "pooled_projections": (20,)}
    made = {name: torch.randn((rows, *shape), generator=generator) for name, shape in shapes.items()}
    return {**made, "timestep": torch.linspace(900, 3.5, rows)}


def flux_inputs(rows: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"hidden_states": (20, 16), "encoder_hidden_states": (5, 24), "pooled_projections": (20,)}
    made = {name: torch.randn((rows, *shape), generator=generator) for name, shape in shapes.items()}
    ids = {"img_ids": torch.cartesian_prod(torch.tensor([0.0]), torch.arange(4.0), torch.arange(5.0))}
    return {**made, **ids, "txt_ids": torch.zeros(5, 3), "timestep": torch.linspace(0.9, 0.1, rows)}


# ---------------------------------------------------------------------------------------------- beside the reference
@pytest.mark.parametrize("norm", [None, "rms_norm"])
def test_sd3_with_an_adapter_is_the_references(read_random: Read, apart: Apart, norm: str | None) -> None:
    ours, theirs = read_random("SD3Transformer2DModel", {**SD3_MODEL, "qk_norm": norm})
    adapter, inputs = made("sd3"), sd3_inputs()
    theirs._load_ip_adapter_weights(halves(adapter.state_dict()), low_cpu_mem_usage=False)
    for processor in theirs.attn_processors.values():
        processor.scale = 0.7
    pictures = torch.randn(2, 6, 12)
    inputs["timestep"][:] = 700.0  # a forward is of one time
    changed = attended(ours, adapter, pictures, torch.tensor(700.0), 0.7)
    expected = theirs(**inputs, joint_attention_kwargs={"ip_adapter_image_embeds": pictures}).sample
    assert apart(changed(**inputs), expected) < TOLERANCE
    assert apart(ours(**inputs), expected) > 0.01


def test_flux_with_two_adapters_is_the_references(read_random: Read, apart: Apart) -> None:
    ours, theirs = read_random("FluxTransformer2DModel", FLUX_MODEL)
    inputs, adapters = flux_inputs(), [made("flux"), made("flux")]
    theirs._load_ip_adapter_weights([halves(a.state_dict()) for a in adapters], low_cpu_mem_usage=False)
    scales = [0.7, 0.4]
    for processor in list(theirs.attn_processors.values())[:2]:
        processor.scale = scales
    pictures = [torch.randn(2, 1, 12), torch.randn(2, 1, 12)]
    changed = ours
    for adapter, features, scale in zip(adapters, pictures, scales, strict=True):
        changed = attended(changed, adapter, features[:, 0], torch.tensor(0.0), scale)
    expected = theirs(**inputs, joint_attention_kwargs={"ip_adapter_image_embeds": pictures}).sample
    assert apart(changed(**inputs), expected) < TOLERANCE
    assert apart(ours(**inputs), expected) > 0.01


# ---------------------------------------------------------------------------------------------------------------- views
@pytest.fixture(params=ADAPTERS)
def case(request: pytest.FixtureRequest, read_random: Read) -> tuple[Any, Any, dict[str, Tensor], Tensor]:
    """A model, its adapter, inputs of the model, and features of two pictures."""
    if request.param == "sd3":
        return (
            read_random("SD3Transformer2DModel", SD3_MODEL)[0],
            made("sd3"),
            sd3_inputs(),
            torch.randn(2, 6, 12),
        )
    return read_random("FluxTransformer2DModel", FLUX_MODEL)[0], made("flux"), flux_inputs(), torch.randn(2, 12)


def test_with_scale_zero_or_an_empty_mask_a_view_is_the_model(case: Any, apart: Apart) -> None:
    model, adapter, inputs, features = case
    t, plain = torch.tensor(500.0), model(**inputs)
    assert apart(attended(model, adapter, features, t, 0.0)(**inputs), plain) == 0
    empty, full = torch.zeros(1, 1, 64, 80), torch.ones(1, 1, 64, 80)
    assert apart(attended(model, adapter, features, t, mask=empty)(**inputs), plain) == 0
    everywhere = attended(model, adapter, features, t)(**inputs)
    assert apart(attended(model, adapter, features, t, mask=full)(**inputs), everywhere) < TOLERANCE
    assert apart(plain, everywhere) > 0.01


def test_an_adapter_of_other_blocks_is_refused(case: Any) -> None:
    model, _, _, _ = case
    name = "sd3" if "SD3" in type(model).__name__ else "flux"
    other = "flux" if name == "sd3" else "sd3"
    for adapter, text in (
        (made(name, width=16), "width 16"),
        (made(name, num_layers=5), "num_layers 5"),
        (made(other), "got a"),
    ):
        with pytest.raises(UnfitValue, match=rf"needs a \w+ with .*{text}.*Use an IP-Adapter of this model"):
            attach_images(model, [ImageBranch(adapter, 1.0)], [HeldTokens(SIZE)])


@pytest.mark.parametrize("tap", [Tap(Identity(), (0,)), Tap(Drop(), (1,)), Tap(Drop(feed_forward=False), (0,))])
def test_taps_reach_the_layers_of_a_view(case: Any, apart: Apart, tap: Tap) -> None:
    model, adapter, inputs, features = case
    changed = attended(model, adapter, features, torch.tensor(500.0), 0.0)
    view = attended(model, adapter, features, torch.tensor(500.0))
    zero, plain, image = (apply_taps(one, Taps((tap,)), SIZE)(**inputs) for one in (changed, model, view))
    assert apart(zero, plain) == 0 and apart(image, plain) > 0.001
