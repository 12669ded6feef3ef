"""Whole checkpoints in one safetensors file: parts without numbers, with one side, of other proportions."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..checkpoint import single_file, used
from ..table import Action, Hostile, drawn, repeats
from .weights import CONTROL, HEADERS, Tensors

UNET = "model.diffusion_model."
KEYS = (
    f"{UNET}input_blocks.0.0.weight",
    f"{UNET}time_embed.0.weight",
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    f"{UNET}out.2.weight",
    "first_stage_model.encoder.conv_in.weight",
    "first_stage_model.decoder.conv_in.weight",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
)
"""The tensors by which a file is recognised."""
SHAPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "no number": lambda t: t[:0],
    "no column": lambda t: t[:, :0] if t.ndim > 1 else t[:0],
    "a number": lambda t: t.flatten()[0].clone(),
    "one side": lambda t: t.flatten(),
    "a side more": lambda t: t[None],
    "int8": lambda t: t.to(torch.int8),
    "complex": lambda t: t.to(torch.complex64),
    "one row": lambda t: t[:1],
}
FAMILIES: dict[str, dict[str, tuple[int, ...]]] = {
    "only the first tensor of a U-Net": {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3)},
    "the first tensor of Flux": {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
    "Flux of width 0": {"double_blocks.0.img_attn.qkv.weight": (0, 0), "img_in.weight": (0, 64)},
    "Flux of block 10**9": {"double_blocks.999999999.img_attn.qkv.weight": (3, 1), "img_in.weight": (1, 64)},
    "Flux of many blocks": {f"double_blocks.{i}.img_attn.qkv.weight": (0,) for i in range(5000)},
    "SD 3 of width 0": {
        "joint_blocks.0.x_block.attn.qkv.weight": (0, 0),
        "x_embedder.proj.weight": (0, 16, 2, 2),
        "pos_embed": (1, 0, 0),
    },
    "SD 3 with places of no square": {
        "joint_blocks.0.x_block.attn.qkv.weight": (192, 64),
        "x_embedder.proj.weight": (64, 16, 2, 2),
        "pos_embed": (1, 7, 64),
    },
    "a U-Net of block 10**9": {
        f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3),
        f"{UNET}input_blocks.999999999.0.in_layers.2.weight": (8, 8, 3, 3),
    },
    "a number of many digits": {f"{UNET}input_blocks.{'9' * 5000}.0.weight": (1, 1)},
    "a number of Arabic digits": {
        f"{UNET}input_blocks.\u0663.0.weight": (1, 1),
        f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3),
    },
    "a T5 of width 0": {"encoder.block.0.layer.0.SelfAttention.q.weight": (0, 0), "shared.weight": (0, 0)},
    "a CLIP of width 0": {
        "text_model.embeddings.token_embedding.weight": (0, 0),
        "text_model.embeddings.position_embedding.weight": (0, 0),
    },
    "names of points": {"." * 5000: (1,), "model.diffusion_model." + "." * 5000: (1,)},
    "a name for a regular expression": {"model.diffusion_model." + "input_blocks." * 4000: (1,)},
    "scales of eight bits": {
        f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3),
        f"{UNET}input_blocks.0.0.weight_scale": (0,),
        f"{UNET}input_blocks.0.0.scale_weight": (7,),
    },
    "a LoRA": {
        "lora_unet_down_blocks_0.lora_down.weight": (4, 4),
        "lora_unet_down_blocks_0.lora_up.weight": (4, 4),
        "lora_unet_down_blocks_0.alpha": (),
    },
    "a state of four bits": {
        f"{UNET}input_blocks.0.0.weight": (8, 1),
        f"{UNET}input_blocks.0.0.weight.quant_state.bitsandbytes__nf4": (7,),
        f"{UNET}input_blocks.0.0.weight.absmax": (0,),
    },
}


def inputs() -> Iterator[Hostile]:
    """Files that are no safetensors, changed tensors by which families are recognised, and invented files."""
    for name, data in HEADERS.items():
        if not name.startswith("200"):
            yield Hostile(f"header: {name}", lambda place, data=data: _file(place, data))
    for key in KEYS:
        for name, change in SHAPES.items():
            yield Hostile(f"{key} with {name}", lambda place, k=key, c=change: _changed(place, k, c))
    for name, shapes in FAMILIES.items():
        yield Hostile(f"invented: {name}", lambda place, shapes=shapes: _invented(place, shapes))
    for k in repeats(12):
        yield Hostile(f"several tensors at random {k}", lambda place, k=k: _random(place, k))
    for name, text in {"control characters": CONTROL, "JSON": '{"a": ' * 2000, "a long text": "x" * 10**6}.items():
        for entry in ("modelspec.architecture", "modelspec.prediction_type", "modelspec.resolution", "config", CONTROL):
            yield Hostile(f"header entry {entry!r} of {name}", lambda p, e=entry, t=text: _stated(p, {e: t}))


def _file(place: Path, data: bytes) -> Action:
    file = place / "x.safetensors"
    file.write_bytes(data)
    return used(file)


def _written(place: Path, tensors: Tensors, header: dict[str, str] | None = None) -> Action:
    file = place / "x.safetensors"
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        file,
        metadata=header or {"format": "pt"},
    )
    return used(file)


def _changed(place: Path, key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Action:
    tensors = load_file(single_file(place))
    found = key if key in tensors else next(name for name in tensors if name.startswith(key.rpartition(".")[0]))
    return _written(place, {**tensors, found: change(tensors[found])})


def _invented(place: Path, shapes: dict[str, tuple[int, ...]]) -> Action:
    return _written(place, {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()})


def _random(place: Path, k: int) -> Action:
    random = drawn(f"single file {k}")
    tensors = load_file(single_file(place))
    for name in random.sample([*tensors], 6):
        way = random.choice([*SHAPES.values(), None])
        if way is None:
            del tensors[name]
        else:
            tensors[name] = way(tensors[name])
    return _written(place, tensors)


def _stated(place: Path, header: dict[str, str]) -> Action:
    return _written(place, load_file(single_file(place)), header)
