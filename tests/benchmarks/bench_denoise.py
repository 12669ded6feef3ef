"""Time a denoising step of the embedded model beside diffusers' classic pipeline, in pairs, in one process."""

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from rich.console import Console
from rich.table import Table

import sfumato as sf

EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"
STEPS, PAIRS = 30, 9


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def a_step(run: Callable[[int], object]) -> float:
    """Seconds a step: a long run less a short one, so that what is outside the loop does not count."""
    return (seconds(lambda: run(STEPS)) - seconds(lambda: run(2))) / (STEPS - 2)


def main() -> None:
    """Print the ratio of ours to theirs, for one picture and for four."""
    warnings.filterwarnings("ignore")
    theirs: Any = StableDiffusionPipeline.from_pretrained(EMOJI, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    ours = sf.load(EMOJI)

    table = Table("pictures", "ours, ms a step", "diffusers, ms a step", "ratio", title="a denoising step, guidance 4")
    for count in (1, 4):

        def we(n: int, count: int = count) -> object:
            return ours(
                "a red apple", seed=1, num_inference_steps=n, guidance_scale=4.0, num_images_per_prompt=count
            ).images

        def they(n: int, count: int = count) -> object:
            return theirs(
                "a red apple", num_inference_steps=n, guidance_scale=4.0, num_images_per_prompt=count,
                height=64, width=64, generator=torch.Generator().manual_seed(1),
            ).images  # fmt: skip

        we(3)
        they(3)
        pairs = [(a_step(we), a_step(they)) for _ in range(PAIRS)]
        mine, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        ratio = statistics.median(a / b for a, b in pairs)
        table.add_row(str(count), f"{mine * 1e3:.2f}", f"{other * 1e3:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
