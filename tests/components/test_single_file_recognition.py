"""What a file is, by sets of its tensors: laws over changed real layouts, and files of other models."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import sfumato as sf
import sfumato.components.models as ours
from sfumato.components.loading.single_file import checkpoint
from sfumato.components.loading.single_file.checkpoint import facts_of
from sfumato.components.loading.single_file.tables import file_tensors, ties
from sfumato.components.loading.single_file.writing import _rows
from sfumato.components.storage.building import on_meta

EXAMPLES = int(os.environ.get("SFUMATO_EXAMPLES", "25"))
"""For each layout. `SFUMATO_EXAMPLES=2000 pytest tests/components/test_single_file_recognition.py` is the long run."""
Shape = tuple[int, ...]
UNET: dict[str, Any] = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 24, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
XL: dict[str, Any] = {
    **UNET, "cross_attention_dim": 48, "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 48, "attention_head_dim": (1, 2),
}  # fmt: skip
CONTROL: dict[str, Any] = {k: v for k, v in UNET.items() if k != "up_block_types"}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 32), "layers_per_block": 1, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip
FLUX: dict[str, Any] = {
    "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 128, "num_attention_heads": 1, "in_channels": 16,
    "joint_attention_dim": 24, "pooled_projection_dim": 16, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
SD3: dict[str, Any] = {
    "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 1, "joint_attention_dim": 24, "in_channels": 16,
    "pooled_projection_dim": 16, "caption_projection_dim": 16, "sample_size": 8, "pos_embed_max_size": 8,
}  # fmt: skip
T5: dict[str, Any] = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}


def _clip(width: int) -> dict[str, Any]:
    return {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1,
            "projection_dim": width, "vocab_size": 40}  # fmt: skip


FAMILIES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "sd1": {
        "unet": ("UNet2DConditionModel", UNET), "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", _clip(24)),
    },
    "sd2": {
        "unet": ("UNet2DConditionModel", {**UNET, "cross_attention_dim": 32}), "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", _clip(32)),
    },
    "sdxl": {
        "unet": ("UNet2DConditionModel", XL), "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", _clip(16)), "text_encoder_2": ("CLIPTextModelWithProjection", _clip(32)),
    },
    "sdxl_refiner": {
        "unet": ("UNet2DConditionModel", {**XL, "cross_attention_dim": 32}), "vae": ("AutoencoderKL", VAE),
        "text_encoder_2": ("CLIPTextModelWithProjection", _clip(32)),
    },
    "sd3": {
        "transformer": ("SD3Transformer2DModel", SD3), "vae": ("AutoencoderKL", {**VAE, "latent_channels": 16}),
        "text_encoder": ("CLIPTextModelWithProjection", _clip(16)),
        "text_encoder_2": ("CLIPTextModelWithProjection", _clip(32)), "text_encoder_3": ("T5EncoderModel", T5),
    },
    "flux": {
        "transformer": ("FluxTransformer2DModel", FLUX), "vae": ("AutoencoderKL", {**VAE, "latent_channels": 4}),
        "text_encoder": ("CLIPTextModel", _clip(16)), "text_encoder_2": ("T5EncoderModel", T5),
    },
}  # fmt: skip
SINGLES: dict[str, tuple[str, dict[str, Any]]] = {
    "control net": ("ControlNetModel", CONTROL),
    "union": ("ControlNetUnionModel", {
        **CONTROL, "addition_embed_type": "text_time", "addition_time_embed_dim": 16, "num_trans_channel": 32,
        "projection_class_embeddings_input_dim": 96, "num_proj_channel": 32,
    }),
    "flux control net": ("FluxControlNetModel", {**FLUX, "num_mode": 3}),
    "sd3 control net": ("SD3ControlNetModel", SD3),
    "adapter": ("T2IAdapter", {"channels": (32, 64)}),
    "light adapter": ("T2IAdapter", {"channels": (32, 64), "adapter_type": "light_adapter", "num_res_blocks": 4}),
    "adapter of SDXL": ("T2IAdapter", {"adapter_type": "full_adapter_xl", "downscale_factor": 16,
                                       "channels": (32, 64, 128, 128)}),
    "image encoder": ("CLIPVisionModelWithProjection", {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 16, "num_hidden_layers": 2, "image_size": 32,
        "patch_size": 8, "projection_dim": 24,
    }),
    "tiny autoencoder": ("AutoencoderTiny", {
        "encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4, "latent_channels": 16,
    }),
    "autoencoder": ("AutoencoderKL", VAE),
    "clip": ("CLIPTextModelWithProjection", _clip(32)),
    "t5": ("T5EncoderModel", T5),
}  # fmt: skip


def taesd_name(name: str) -> str:
    """A name of `AutoencoderTiny` in TAESD's own files, whose decoder counts a first layer without tensors."""
    half, _, number, *rest = name.split(".")
    return ".".join([f"taesd_{half}", str(int(number) + (half == "decoder")), *rest])


def tencent_name(name: str) -> str:
    """A name of a full `T2IAdapter` of two residual blocks a level in TencentARC's files."""
    match name.removeprefix("adapter.").split("."):
        case ["body", level, "resnets", layer, *rest]:
            return ".".join(["body", str(2 * int(level) + int(layer)), *rest])
        case ["body", level, *rest]:
            return ".".join(["body", str(2 * int(level)), *rest])
        case names:
            return ".".join(names)


def tencent_light_name(name: str) -> str:
    """A name of a light `T2IAdapter` in TencentARC's files."""
    return name.removeprefix("adapter.").replace(".resnets.", ".body.")


AUTHORS = {
    "tiny autoencoder, TAESD's names": ("tiny autoencoder", taesd_name),
    "adapter, TencentARC's names": ("adapter", tencent_name),
    "light adapter, TencentARC's names": ("light adapter", tencent_light_name),
    "adapter of SDXL, TencentARC's names": ("adapter of SDXL", tencent_name),
}
"""Layouts of small models in the names of their authors: the layout in published names, and the way to the authors'."""


@cache
def shapes_of(layout: str) -> dict[str, Shape]:
    """The tensors of a tiny checkpoint: a family in its authors' names, or one model in its published names."""
    if layout in AUTHORS:
        published, named = AUTHORS[layout]
        return {named(name): shape for name, shape in shapes_of(published).items()}
    shapes: dict[str, Shape] = {}
    with on_meta():
        if layout in SINGLES:
            kind, config = SINGLES[layout]
            state = getattr(ours, kind)(**config).state_dict()
            return {name: tuple(tensor.shape) for name, tensor in state.items()}
        for name, (kind, config) in FAMILIES[layout].items():
            model = getattr(ours, kind)(**config)
            facts = facts_of(layout)["models"][name]
            made = ties(model.state_dict(), _rows(facts["kind"], model.to_config()), facts["prefix"])
            shapes |= {n: tuple(t.shape) for n, t in file_tensors(model.state_dict(), made).items()}
    return shapes


def write(path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> Path:
    """A file with these tensors, all zero."""
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path, {"format": "pt", **(metadata or {})})
    return path


# ------------------------------------------------------------------------------------------------------- laws
CHANGES = st.lists(
    st.tuples(st.sampled_from(["drop", "drop like", "rename", "number", "reshape", "empty"]), st.integers(0, 10**6)),
    min_size=1,
    max_size=6,
)


def changed(shapes: Mapping[str, Shape], changes: list[tuple[str, int]]) -> dict[str, Shape]:
    """A layout with tensors dropped, renamed or of other shapes."""
    made = dict(shapes)
    for change, number in changes:
        if not made:
            return made
        name = sorted(made)[number % len(made)]
        pieces = name.split(".")
        at = number % len(pieces)
        match change:
            case "drop":
                del made[name]
            case "drop like":
                made = {n: s for n, s in made.items() if pieces[at] not in n.split(".")}
            case "rename":
                made[".".join([*pieces[:at], "other", *pieces[at + 1 :]])] = made.pop(name)
            case "number":
                made[".".join([*pieces[:at], str(number), *pieces[at:]])] = made.pop(name)
            case "reshape":
                shape = made[name]
                made[name] = [shape[1:], (*shape, 2), shape[::-1], (3, *shape[1:])][number % 4]
            case _:
                made[name] = (0, *made[name][1:])
    return made


class Zeros:
    """Tensors of these shapes, as a file would give them."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes

    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def read(self, name: str) -> torch.Tensor:
        return torch.zeros(self._shapes[name])

    def where(self, name: str) -> str:
        return "memory"


@pytest.mark.parametrize("layout", [*FAMILIES, *SINGLES, *AUTHORS])
def test_a_changed_layout_is_recognised_or_refused(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else happens: configs are derived, and read by their classes. The next law makes models too."""
    found = checkpoint.checkpoint_of(Path("none"), Zeros({}), {})
    stored = Zeros({})

    def opened(*_: object) -> checkpoint.Checkpoint:
        return found

    def tensors(*_: object, **_more: object) -> Zeros:
        return stored

    monkeypatch.setattr(checkpoint, "open_checkpoint", opened)
    monkeypatch.setattr(checkpoint, "open_tensors", tensors)

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(CHANGES)
    def law(changes: list[tuple[str, int]]) -> None:
        nonlocal found, stored
        stored = Zeros(changed(shapes_of(layout), changes))
        specs: list[sf.ComponentSpec] = []
        with suppress(sf.LoadError):
            found = checkpoint.checkpoint_of(Path("none"), stored, {})
            assert found.report()
            specs = [checkpoint.part_spec(found, name) for name in found.models()]
            specs += checkpoint.index_of(Path("none"), sf.Access()).loadable.values()
        for spec in specs:
            if spec.subfolder:
                with suppress(sf.ConfigError):
                    spec.type.config_class.read(spec.subfolder, spec.config)

    law()


@pytest.mark.parametrize("layout", ["sd1", "sdxl", "sd3", "flux", "union", "light adapter"])
def test_a_changed_file_is_read_or_refused(layout: str, tmp_path: Path) -> None:
    @settings(max_examples=max(3, EXAMPLES // 50), deadline=None, database=None,
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(CHANGES)
    def law(changes: list[tuple[str, int]]) -> None:
        file = write(tmp_path / "changed.safetensors", changed(shapes_of(layout), changes))
        with suppress(sf.LoadError):
            assert str(sf.inspect(file))
        with suppress(sf.LoadError, sf.WireError):
            sf.load(file, manager=sf.ComponentsManager())
        for kind in {kind for kind, _ in FAMILIES.get(layout, {}).values()} or {SINGLES[layout][0]}:
            with suppress(sf.LoadError):
                sf.load_component(file, kind, manager=sf.ComponentsManager())

    law()
