"""Flux's transformer and its control nets give the reference's numbers, with fused projections too."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sfumato import ConfigError
from sfumato.components.models.flux import FluxTransformer2DModel
from sfumato.components.models.flux_controlnet import FluxControlNetModel, FluxResiduals
from sfumato.components.models.fused_projections import fuse_projections
from sfumato.components.models.views import view as seen
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.perturb import Blur, Drop, Identity
from sfumato.components.taps.tap import Tap, Taps

TOLERANCE = 1e-5  # float32; measured: at most 5e-7

TINY: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "axes_dims_rope": [4, 6, 6],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "schnell": TINY,
    "dev": {**TINY, "guidance_embeds": True},
    "fill": {**TINY, "guidance_embeds": True, "in_channels": 40, "out_channels": 8},
    "other axes": {**TINY, "axes_dims_rope": [8, 4, 4], "num_layers": 1, "num_single_layers": 5},
    "one stream": {**TINY, "num_layers": 0},
    "two streams": {**TINY, "num_single_layers": 0},
    "patches": {**TINY, "patch_size": 2},
}
CONTROL: dict[str, dict[str, Any]] = {
    "of one kind": {**TINY, "guidance_embeds": True, "num_layers": 1, "num_single_layers": 1},
    "a union": {**TINY, "guidance_embeds": True, "num_mode": 4, "num_single_layers": 2},
    "without single blocks": {**TINY, "num_single_layers": 0},
    "of pixels": {**TINY, "num_single_layers": 0, "patch_size": 2, "conditioning_embedding_channels": 4},
}

Pair = tuple[Any, Any]
Apart = Callable[[Tensor, Tensor], float]


def inputs_of(
    config: dict[str, Any], rows: int = 2, text: int = 5, sides: tuple[int, int] = (3, 4)
) -> dict[str, Tensor]:
    """Inputs for a model of this config: a prompt of `text` tokens, and an image of `sides` tokens."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    height, width = sides
    positions = torch.cartesian_prod(torch.tensor([0.0]), torch.arange(float(height)), torch.arange(float(width)))
    inputs = {
        "hidden_states": noise(rows, height * width, config["in_channels"]),
        "encoder_hidden_states": noise(rows, text, config["joint_attention_dim"]),
        "pooled_projections": noise(rows, config["pooled_projection_dim"]),
        "timestep": torch.linspace(0.9, 0.3, rows),
        "img_ids": positions,
        "txt_ids": torch.zeros(text, 3),
    }
    return {**inputs, "guidance": torch.full((rows,), 3.5)} if config.get("guidance_embeds") else inputs


# ---------------------------------------------------------------------------------------------- beside the reference
@pytest.mark.parametrize("name", CONFIGS)
def test_our_transformer_reads_their_file_and_gives_their_numbers(
    read_by_us: Callable[..., Pair], apart: Apart, name: str
) -> None:
    config = CONFIGS[name]
    ours, theirs = read_by_us("FluxTransformer2DModel", config)
    for inputs in (inputs_of(config), inputs_of(config, 1, 7, (5, 2))):
        assert apart(ours(**inputs), theirs(**inputs).sample) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_their_model_reads_our_file(read_by_them: Callable[..., Pair], apart: Apart, name: str) -> None:
    config = CONFIGS[name]
    ours, theirs = read_by_them("FluxTransformer2DModel", config)
    assert apart(ours(**inputs_of(config)), theirs(**inputs_of(config)).sample) < TOLERANCE


def test_positions_may_be_any_numbers(read_by_us: Callable[..., Pair], apart: Apart) -> None:
    """Tokens of a prompt have positions too, and a reference image has another first number."""
    ours, theirs = read_by_us("FluxTransformer2DModel", TINY)
    inputs = inputs_of(TINY)
    inputs["txt_ids"] = torch.arange(15.0).reshape(5, 3)
    inputs["img_ids"] = inputs["img_ids"] + torch.tensor([1.0, 0.5, 100.0])
    assert apart(ours(**inputs), theirs(**inputs).sample) < TOLERANCE
    rotary = ours.rotary(inputs.pop("txt_ids"), inputs.pop("img_ids"))
    again = ours(**inputs, image_rotary_emb=rotary)
    moved = ours(**inputs, txt_ids=torch.zeros(5, 3), img_ids=torch.zeros(12, 3))
    assert apart(again, moved) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_its_digits_allow(
    read_by_us: Callable[..., Pair], apart: Apart, dtype: torch.dtype
) -> None:
    config = CONFIGS["dev"]
    ours, theirs = read_by_us("FluxTransformer2DModel", config)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    inputs = {k: v if k.endswith("_ids") else v.to(dtype) for k, v in inputs_of(config).items()}
    assert apart(ours(**inputs).float(), theirs(**inputs).sample.float()) < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("many", [1, 2, 3])
@pytest.mark.parametrize("repeats", [False, True])
def test_residuals_of_a_control_net(read_by_us: Callable[..., Pair], apart: Apart, many: int, repeats: bool) -> None:
    config = {**TINY, "num_layers": 5}
    ours, theirs = read_by_us("FluxTransformer2DModel", config)
    generator = torch.Generator().manual_seed(2)
    added = [torch.randn(2, 12, 32, generator=generator) for _ in range(many)]
    given: dict[str, Any] = {"controlnet_block_samples": added, "controlnet_blocks_repeat": repeats}
    both = {**given, "controlnet_single_block_samples": added[:2]}
    for residuals in (given, both):
        expected = theirs(**inputs_of(config), **residuals).sample
        assert apart(ours(**inputs_of(config), **residuals), expected) < TOLERANCE
        assert apart(ours(**inputs_of(config)), expected) > 1e-3


@pytest.mark.parametrize("name", CONTROL)
def test_our_control_net_gives_the_numbers_of_theirs(
    read_by_us: Callable[..., Pair], reference: Any, apart: Apart, tmp_path: Any, name: str
) -> None:
    config = CONTROL[name]
    theirs = reference.FluxControlNetModel.from_config(config).eval()
    for parameter in theirs.parameters():  # a fresh one adds nothing, which would hide every mistake
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = FluxControlNetModel.from_pretrained(tmp_path / "theirs")
    inputs = inputs_of(config)
    generator = torch.Generator().manual_seed(3)
    sides = (48, 64) if ours.reads_pixels else None
    shape = (2, 3, *sides) if sides else inputs["hidden_states"].shape
    mode = {"controlnet_mode": torch.tensor([[1], [3]])} if "num_mode" in config else {}
    control: dict[str, Any] = {"controlnet_cond": torch.randn(shape, generator=generator), **mode}
    expected = theirs(**inputs, **control, conditioning_scale=0.7, return_dict=False)
    found = ours(**inputs, **control, conditioning_scale=0.7)
    assert isinstance(found, FluxResiduals)
    assert found.repeats is ours.reads_pixels
    for some, those in ((found[0], expected[0]), (found[1], expected[1])):
        assert len(some) == len(those or ())
        for a, b in zip(some, those or (), strict=True):
            assert apart(a, b) / max(1, float(b.abs().max())) < TOLERANCE


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "FluxControlNetModel"])
def test_the_full_size_has_the_published_parameters(reference: Any, name: str) -> None:
    """Flux-dev, without its 24 GB: names, shapes, and a count of 11.90 billion."""
    import sfumato.components.models as models

    config = {"guidance_embeds": True} | ({} if name.startswith("FluxT") else {"num_mode": 10})
    with torch.device("meta"):
        ours, theirs = getattr(models, name).from_config(config), getattr(reference, name).from_config(config)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    if name.startswith("FluxT"):
        assert sum(p.numel() for p in ours.parameters()) == 11_901_408_320


# ---------------------------------------------------------------------------------------------------- what it promises
def test_gradients_reach_the_latents_and_every_parameter() -> None:
    model = FluxTransformer2DModel.from_config(CONFIGS["dev"])
    inputs = inputs_of(CONFIGS["dev"])
    inputs["hidden_states"].requires_grad_()
    with torch.enable_grad():
        model(**inputs).square().mean().backward()
    assert float(inputs["hidden_states"].grad.abs().sum()) > 0  # pyright: ignore[reportOptionalMemberAccess]
    unreached = [name for name, p in model.named_parameters() if p.grad is None]
    # The prompt's stream of the last block of two goes on into the single blocks, so nothing is left out.
    assert not unreached


def test_one_graph_holds_all_of_it() -> None:
    """torch.compile traces one graph: no value is read back to Python."""
    model = FluxTransformer2DModel.from_config(CONFIGS["dev"]).eval()
    inputs = inputs_of(CONFIGS["dev"])
    exported = torch.export.export(model, (), kwargs=cast("dict[str, Any]", inputs))
    assert (exported.module()(**inputs) - model(**inputs)).abs().max() < TOLERANCE


CHANGES = (Identity(), Blur(), Blur(0.8), Drop(), Drop(attention=False), Drop(feed_forward=False), Drop(dropout=0.4))


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("layers", [(), ("transformer_blocks.0",), ("single_transformer_blocks.1",)], ids=str)
def test_every_layer_can_be_perturbed_and_the_model_stays(apart: Apart, change: Any, layers: tuple[str, ...]) -> None:
    model = FluxTransformer2DModel.from_config(CONFIGS["dev"]).eval()
    inputs = inputs_of(CONFIGS["dev"])
    plain = model(**inputs)
    perturbed = apply_taps(model, Taps((Tap(change, layers),)), (6, 8))
    assert apart(perturbed(**inputs), plain) > 1e-5
    assert torch.equal(model(**inputs), plain)


@pytest.mark.parametrize("stack", ["transformer_blocks", "single_transformer_blocks"])
def test_dropped_and_identity_layers_are_the_references(
    read_by_us: Callable[..., Pair], apart: Apart, stack: str
) -> None:
    """The reference's hooks for whole layers swap the two streams of Flux, so the test removes its block by hand.

    Its hook for perturbed attention also cuts the prompt from the image, which the pipeline that it published for
    joint attention does not (Stable Diffusion 3): here its attention gets the mask of that pipeline.
    """
    ours, theirs = read_by_us("FluxTransformer2DModel", TINY)
    skipped = getattr(theirs, stack)[1]
    whole = skipped.forward

    def masked(*args: Any, **more: Any) -> Any:
        with ImageApart(prompt=5):
            return whole(*args, **more)

    skipped.forward = masked
    with_mask = theirs(**inputs_of(TINY)).sample
    skipped.forward = _passed
    for change, expected in ((Identity(), with_mask), (Drop(), theirs(**inputs_of(TINY)).sample)):
        perturbed = apply_taps(ours, Taps((Tap(change, (1,), stack),)), (6, 8))
        assert apart(perturbed(**inputs_of(TINY)), expected) < TOLERANCE
        assert apart(ours(**inputs_of(TINY)), expected) > 1e-4


class ImageApart(TorchFunctionMode):
    """Attention in which tokens of the image attend to themselves and to the first `prompt` tokens."""

    def __init__(self, prompt: int) -> None:
        super().__init__()
        self.prompt = prompt

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            count = (kwargs.get("key") if "key" in kwargs else args[1]).shape[2]
            mask = torch.zeros(count, count)
            mask[self.prompt :, self.prompt :] = -torch.inf
            kwargs["attn_mask"] = mask.fill_diagonal_(0)
        return func(*args, **kwargs)


def test_reference_images_and_the_prompt_are_attended_to_under_the_identity(apart: Apart) -> None:
    """An image of one token attends to nothing else of the image anyway: nothing changes."""
    model = FluxTransformer2DModel.from_config(TINY).eval()
    alone = apply_taps(model, Taps((Tap(Identity(), ("transformer_blocks", "single_transformer_blocks")),)), (2, 2))
    assert apart(alone(**inputs_of(TINY)), model(**inputs_of(TINY))) < TOLERANCE


def _passed(hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    return encoder_hidden_states, hidden_states


def test_a_blur_leaves_reference_images_and_the_prompt_alone() -> None:
    """With an image of one token there is nothing to blur, however many tokens of reference images there are."""
    model = FluxTransformer2DModel.from_config(TINY).eval()
    blurred = apply_taps(model, Taps((Tap(Blur(), ("transformer_blocks", "single_transformer_blocks")),)), (2, 2))
    assert (blurred(**inputs_of(TINY)) - model(**inputs_of(TINY))).abs().max() < 1e-6


def test_fused_projections_change_speed_and_nothing_else(apart: Apart) -> None:
    model = FluxTransformer2DModel.from_config(CONFIGS["dev"]).eval()
    inputs = inputs_of(CONFIGS["dev"])
    plain, names = model(**inputs), list(model.state_dict())
    view = fuse_projections(model)
    assert apart(view(**inputs), plain) < TOLERANCE
    assert list(view.state_dict()) == names
    assert all(a is b for a, b in zip(view.parameters(), model.parameters(), strict=True))
    perturbed = apply_taps(view, Taps((Tap(Identity(), (0, 3)),)), (6, 8))
    assert apart(perturbed(**inputs), apply_taps(model, Taps((Tap(Identity(), (0, 3)),)), (6, 8))(**inputs)) < TOLERANCE


@pytest.mark.parametrize("path", ["transformer_blocks.0.attn.add_k_proj", "single_transformer_blocks.1.attn.to_q"])
def test_a_layer_replaced_in_a_fused_model_counts(apart: Apart, path: str) -> None:
    """As LoRA replaces them, before or after."""
    model = FluxTransformer2DModel.from_config(CONFIGS["dev"]).eval()
    inputs = inputs_of(CONFIGS["dev"])

    def doubled(layer: torch.nn.Module) -> torch.nn.Module:
        return torch.nn.Sequential(layer, torch.nn.Linear(32, 32))

    torch.manual_seed(4)
    expected = seen(model, {path: doubled})(**inputs)
    for order in (
        lambda: seen(fuse_projections(model), {path: doubled}),
        lambda: fuse_projections(seen(model, {path: doubled})),
    ):
        torch.manual_seed(4)
        assert apart(order()(**inputs), expected) < TOLERANCE
        assert apart(model(**inputs), expected) > 1e-3


# -------------------------------------------------------------------------------------------------------- bad input
def test_guidance_is_needed_or_refused_by_name() -> None:
    dev, schnell = (FluxTransformer2DModel.from_config(CONFIGS[name]) for name in ("dev", "schnell"))
    with pytest.raises(TypeError, match=r"Needs guidance, got None: the model's guidance_embeds asks for it"):
        dev(**inputs_of(TINY))
    with pytest.raises(TypeError, match=r"Got guidance, but this model does not read it"):
        schnell(**inputs_of(CONFIGS["dev"]))


def test_a_union_needs_a_mode_and_others_refuse_it() -> None:
    union = FluxControlNetModel.from_config(CONTROL["a union"])
    single = FluxControlNetModel.from_config(CONTROL["of one kind"])
    inputs: dict[str, Any] = inputs_of(CONTROL["a union"])
    inputs["controlnet_cond"] = inputs["hidden_states"]
    with pytest.raises(TypeError, match=r"Needs controlnet_mode, got None: the model's num_mode asks for it"):
        union(**inputs)
    with pytest.raises(TypeError, match=r"Got controlnet_mode, but this model does not read it"):
        single(**inputs, controlnet_mode=torch.tensor([[1], [1]]))


def test_axes_that_do_not_fill_a_head_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"axes_dims_rope +needs a sum of attention_head_dim 16, got 4 \+ 6 \+ 4"):
        FluxTransformer2DModel.from_config({**TINY, "axes_dims_rope": [4, 6, 4]})


def test_tokens_without_positions_are_refused() -> None:
    inputs = inputs_of(TINY)
    del inputs["img_ids"]
    with pytest.raises(TypeError, match="Pass img_ids and txt_ids, or image_rotary_emb"):
        FluxTransformer2DModel.from_config(TINY)(**inputs)
