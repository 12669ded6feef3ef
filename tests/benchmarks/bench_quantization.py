"""Loading quantized: seconds and peak memory by kind, beside plain weights; and what decoding costs a GGUF layer.

Each load is a process of its own, so that peaks are its own. Kinds whose package is not installed are left out. The
GGUF layers stand beside the plain layer and, for the time of decoding, beside the reference's.
"""

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.quantization.gguf.kinds import BY_NAME
from sfumato.components.quantization.gguf.layers import packed_layer
from sfumato.components.quantization.gguf.packed import Packed

KINDS = {
    "plain": "torch",
    "int8_weight_only": "torchao",
    "llm_int8": "bitsandbytes",
    "nf4": "bitsandbytes",
    "quanto_int8": "optimum",
    "quanto_int4": "optimum",
}
WIDTH, TOKENS, RUNS = 2048, 256, 7

LOAD = """
import sys, threading, time
import torch, warnings
warnings.simplefilter("ignore")
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.quantization.config import read_quantization
from sfumato.components.quantization.method import method_for
kind = None if sys.argv[2] == "plain" else read_quantization(sys.argv[2])
if kind is not None:
    method_for(kind)  # the import of its package is not what is measured
def held():  # kilobytes of memory of its own: what is mapped from a file can be given back
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
def watch():
    global peak
    while not done:
        peak = max(peak, held())
        time.sleep(0.002)
done, before = False, held()
peak = before
watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
model = UNet2DConditionModel.from_pretrained(sys.argv[1], dtype=torch.bfloat16, quantization=kind)
took = time.perf_counter() - began
done = True
watcher.join()
print(took, (max(peak, held()) - before) / 1000)
"""


def loads(console: Console) -> None:
    """Seconds and megabytes of loading a U-Net whose file is in float16, to bfloat16 and to each kind."""
    with tempfile.TemporaryDirectory() as folder:
        model = UNet2DConditionModel(
            block_out_channels=(256, 384),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            transformer_layers_per_block=(1, 4),
            cross_attention_dim=768,
        )
        count = sum(p.numel() for p in model.parameters())
        model.half().save_pretrained(folder)
        del model
        table = Table("kind", "seconds", "peak, MB", title=f"loading {count / 1e6:.0f} million weights from float16")
        for kind, package in KINDS.items():
            if importlib.util.find_spec(package) is None:
                continue
            command = [sys.executable, "-c", LOAD, folder, kind]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            table.add_row(kind, f"{float(said[-2]):.2f}", f"{float(said[-1]):.0f}")
        console.print(table)


def median(work: Callable[[], object]) -> float:
    """Milliseconds of a call, the first not counted."""
    work()
    times: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def layers(console: Console) -> None:
    """A packed linear layer beside a plain one in float32, and decoding alone beside the reference's."""
    theirs = reference()
    plain, x = nn.Linear(WIDTH, WIDTH), torch.randn(1, TOKENS, WIDTH)
    table = Table(
        "kind", "layer, of plain", "decoding, ms", "reference's, ms", title=f"{WIDTH} x {WIDTH}, {TOKENS} tokens"
    )
    with torch.no_grad():
        base = median(lambda: plain(x))
        for kind in (kind for kind in BY_NAME.values() if kind.dtype is None):
            blocks = np.random.default_rng(0).integers(
                0, 60, (WIDTH * WIDTH // kind.values, kind.bytes), dtype=np.uint8
            )
            packed = Packed(kind, torch.from_numpy(blocks), (WIDTH, WIDTH))
            layer = packed_layer(plain, packed, None)
            decoding, other = median(packed.dequantize), theirs(kind.number, packed) if theirs else None
            ratio = median(lambda layer=layer: layer(x)) / base
            table.add_row(kind.name, f"{ratio:.2f}", f"{decoding:.1f}", "-" if other is None else f"{other:.1f}")
    console.print(table)


def reference() -> Callable[[int, Packed], float | None] | None:
    """Milliseconds that diffusers takes to decode the same bytes; None where it or `gguf` is not installed."""
    if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("diffusers") is None:
        return None
    import gguf
    from diffusers.quantizers.gguf import utils

    api: Any = utils  # untyped

    def decode(number: int, packed: Packed) -> float | None:
        kind = gguf.GGMLQuantizationType(number)
        if kind not in api.dequantize_functions:
            return None
        held = api.GGUFParameter(packed.blocks.view(WIDTH, -1), quant_type=kind)
        return median(lambda: api.dequantize_gguf_tensor(held))

    return decode


def main() -> None:
    """Print both tables."""
    console = Console()
    loads(console)
    layers(console)


if __name__ == "__main__":
    main()
