"""Time from process start to a written picture, beside diffusers doing the same, in pairs."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import sfumato as sf

EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"
PAIRS = 5

THEIRS = f"""
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(EMOJI)!r}, torch_dtype=torch.float32)
image = pipe("a red apple", num_inference_steps=5, guidance_scale=4.0, height=64, width=64,
             generator=torch.Generator().manual_seed(7)).images[0]
image.save("theirs.png")
"""


def seconds(command: list[str], folder: str) -> float:
    """How long a process takes from start to end."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print both medians and the ratio of each pair's median."""
    ours = [sys.executable, "-m", "sfumato", "run", "a red apple", "-o", "ours.png", "--seed", "7"]
    ours += ["--set", "num_inference_steps=5"]
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(seconds(ours, folder), seconds([sys.executable, "-c", THEIRS], folder)) for _ in range(PAIRS + 1)][1:]
    mine, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    table = Table("ours, s", "diffusers, s", "ratio", title="process start to picture, 5 steps")
    table.add_row(f"{mine:.2f}", f"{other:.2f}", f"{statistics.median(a / b for a, b in pairs):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
