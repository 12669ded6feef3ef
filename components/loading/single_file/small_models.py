"""Tensor names of small models in the layout of their authors.

T2I-Adapters (TencentARC), IP-Adapters (Tencent AI Lab), and TAESD (madebyollin).
"""

import re
from collections.abc import Mapping
from typing import Any

from ....registry import printable
from ....registry.log import LOG
from ...storage.tensors import Shape
from .sizes import Sizes
from .tables import Row, table

_SECOND = re.compile(r"plus[-_ ]?v2")
"""The part of a file's name that marks a FaceID Plus v2."""
TAESD = "taesd_"
"""The prefix of `encoder.` and `decoder.` in a file with both halves. ComfyUI writes such files."""

_TAESD = f"""
    encoder.layers      {TAESD}encoder
    decoder.layers.{{i}}  {TAESD}decoder.{{j}}
"""
_LIGHT = """
    adapter.body.{i}            body.{i}
    adapter.body.{i}.resnets    body.{i}.body
"""


def taesd(shapes: Mapping[str, Shape]) -> tuple[Row, ...]:
    """`AutoencoderTiny`. The authors count the bound of the latents as the decoder's first layer, without tensors."""
    layers = Sizes(shapes).count(f"{TAESD}decoder.")
    encoder, decoder = _TAESD.strip().splitlines()
    numbered = "\n".join(decoder.replace("{i}", str(n - 1)).replace("{j}", str(n)) for n in range(1, layers))
    return (*table(encoder), *table(numbered))


def with_shortcut(config: dict[str, Any], file: str) -> dict[str, Any]:
    """The config of an IP-Adapter, completed by the name of its file: FaceID Plus v2 adds a shortcut."""
    if config["projector"] != "face_perceiver" or "shortcut" in config:
        return config
    second = _SECOND.search(file.lower()) is not None
    LOG.info(
        "%s: taken for FaceID Plus %s by its name, since both versions have the same tensors. Pass "
        "config={'shortcut': %s} to load_component for the other.",
        printable(file), "v2" if second else "v1", not second,
    )  # fmt: skip
    return {**config, "shortcut": second}


def ip_adapter(shapes: Mapping[str, Shape]) -> tuple[Row, ...]:
    """`ImagePromptAdapter`. Its training script writes `adapter_modules` in place of `ip_adapter`."""
    matrices = "adapter_modules" if any(name.startswith("adapter_modules.") for name in shapes) else "ip_adapter"
    return Row(("image_proj",), "image_proj"), Row(("ip_adapter",), matrices)


def t2i_adapter(shapes: Mapping[str, Shape]) -> tuple[Row, ...]:
    """`T2IAdapter`. In the authors' names the residual blocks of a full adapter are numbered through all levels."""
    sizes = Sizes(shapes)
    blocks = sizes.count("body.")
    if "conv_in.weight" not in sizes:  # a light adapter
        return table(_LIGHT, blocks)
    # A level whose width differs from that of the level before begins with another convolution.
    each = next((n for n in range(1, blocks) if f"body.{n}.in_conv.weight" in sizes), blocks)
    rows = [Row(("adapter.conv_in",), "conv_in")]
    for n in range(blocks):
        level, layer = divmod(n, each)
        rows += [Row((f"adapter.body.{level}.resnets.{layer}",), f"body.{n}")]
        rows += [Row((f"adapter.body.{level}.in_conv",), f"body.{n}.in_conv")] if layer == 0 else []
    return tuple(rows)
