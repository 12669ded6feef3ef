"""Adapters beside diffusers with PEFT: attaching, a U-Net's forward with 1, 3 and 8 LoRAs, and peak memory.

Both sides run the same random U-Net with the same files, in turn, so that a busy machine slows both. Times are medians
of CPU time on one thread. A peak is memory of its own beyond what a process had before, each in a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

CONFIG: Mapping[str, Any] = {
    "sample_size": 32, "in_channels": 4, "out_channels": 4, "block_out_channels": (64, 128), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 256,
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 8,
}  # fmt: skip
RANK, COUNTS, RUNS = 16, (1, 3, 8), 3
ENDS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


# ------------------------------------------------------------------------------------------------------- the two sides
def our_unet(folder: Path) -> Any:
    """The U-Net as this library loads it."""
    return UNet2DConditionModel.from_pretrained(folder / "unet")


def our_view(unet: Any, files: list[Path]) -> Any:
    """Read and attach adapters, and make the view that a run uses."""
    adapters = [sf.load_adapter(file) for file in files]
    return sf.load("sd").bind(unet=unet).with_adapters(*adapters).adapted_bindings["unet"].load()


def our_merged(unet: Any, files: list[Path]) -> Any:
    """A copy with the adapters in its weights."""
    adapters = [sf.load_adapter(file) for file in files]
    return sf.load("sd").bind(unet=unet).with_adapters(*adapters).merged().bindings["unet"]


def their_unet(folder: Path) -> Any:
    """The U-Net as diffusers loads it."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as Theirs  # slow to import

    model: Any = Theirs
    return model.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval().requires_grad_(False)


def their_attach(unet: Any, files: list[Path]) -> Any:
    """Read adapters into the U-Net, which changes it."""
    for file in files:
        unet.load_lora_adapter(str(file), prefix="unet", adapter_name=file.stem)
    unet.set_adapters([file.stem for file in files], [1.0] * len(files))
    return unet


def write(folder: Path) -> list[Path]:
    """The U-Net, and eight LoRAs for its attention."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**CONFIG)
    unet.save_pretrained(folder / "unet")
    files = [folder / f"style{i}.safetensors" for i in range(max(COUNTS))]
    for file in files:
        tensors: dict[str, Tensor] = {}
        for path, layer in unet.named_modules():
            if path.endswith(ENDS) and isinstance(layer, nn.Linear):
                tensors[f"unet.{path}.lora_A.weight"] = torch.randn(RANK, layer.in_features) * 0.02
                tensors[f"unet.{path}.lora_B.weight"] = torch.randn(layer.out_features, RANK) * 0.02
        save_file(tensors, file)
    return files


# ------------------------------------------------------------------------------------------------------- measuring
def paired(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of CPU time of both, run in turn; the first run of each is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(RUNS + 1):
        for work, found in zip((ours, theirs), times, strict=True):
            began = time.process_time()
            work()
            if run:
                found.append(time.process_time() - began)
    return 1000 * statistics.median(times[0]), 1000 * statistics.median(times[1])


def forward(model: Any) -> Tensor:
    """A forward of two rows."""
    generator = torch.Generator().manual_seed(1)
    sample, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 256, generator=generator)
    out = model(sample, torch.tensor(500.0), text)
    return out if isinstance(out, Tensor) else out.sample


def speeds(folder: Path, files: list[Path]) -> list[tuple[str, float, float]]:
    """What was measured, with milliseconds of both sides."""
    ours, theirs = our_unet(folder), their_unet(folder)
    rows = [("forward, no adapter", *paired(lambda: forward(ours), lambda: forward(theirs)))]
    for count in COUNTS:  # a fresh U-Net for them each time: unfused weights have drifted
        rows += with_count(ours, their_unet(folder), files[:count])
    return rows


def with_count(ours: Any, theirs: Any, files: list[Path]) -> list[tuple[str, float, float]]:
    """The rows for these adapters. theirs: is changed."""
    count, names = len(files), [file.stem for file in files]

    def attach_and_remove() -> None:
        their_attach(theirs, files)
        theirs.delete_adapters(names)

    attaching = paired(lambda: our_view(ours, files), attach_and_remove)
    view, tuned = our_view(ours, files), their_attach(theirs, files)
    assert torch.allclose(forward(view), forward(tuned), atol=1e-4)
    beside = paired(lambda: forward(view), lambda: forward(tuned))
    merged = our_merged(ours, files)
    tuned.fuse_lora()
    assert torch.allclose(forward(merged), forward(tuned), atol=1e-4)
    fused = paired(lambda: forward(merged), lambda: forward(tuned))
    return [
        (f"attach {count}", *attaching), (f"forward, {count} side by side", *beside),
        (f"forward, {count} merged", *fused),
    ]  # fmt: skip


def own_memory() -> int:
    """Bytes of memory of this process that the kernel cannot drop."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def peak(side: str, folder: Path) -> float:
    """Megabytes for eight adapters and a forward, in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1])) / 1e6


def used_by(side: str, folder: Path) -> int:
    """Bytes that one side needs for eight adapters, with the U-Net and a forward already there."""
    files = sorted(folder.glob("style*.safetensors"))
    unet = our_unet(folder) if side == "ours" else their_unet(folder)
    forward(unet)
    before = own_memory()
    model = our_view(unet, files) if side == "ours" else their_attach(unet, files)
    forward(model)
    return own_memory() - before


def main() -> None:
    """Print the table, or measure one side for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with torch.no_grad():
        if asked.side:
            print(used_by(asked.side, asked.folder))
            return
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            files = write(folder)
            table = Table("", "ours", "diffusers", "ratio", title=f"LoRAs of rank {RANK}: CPU milliseconds")
            for name, ours, theirs in speeds(folder, files):
                table.add_row(name, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}")
            memory = [peak(side, folder) for side in ("ours", "theirs")]
            table.add_row("memory of 8, MB", *(f"{size:.1f}" for size in memory), f"{memory[0] / memory[1]:.2f}")
            Console().print(table)


if __name__ == "__main__":
    main()
