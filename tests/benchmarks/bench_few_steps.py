"""Time encoding, the loop and decoding of runs of 1, 2 and 4 steps, with the autoencoder and with a tiny one, in turns.

The embedded model, and one of Stable Diffusion 1.5's size at 256 x 256 with random weights (`--size`). The tiny
decoder has TAESD's size and random weights: its pictures are noise, and its time is that of the published one.
"""

import argparse
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sfumato as sf
from sfumato.presets.bench.measure import measure
from sfumato.presets.bench.published import random_pipeline
from sfumato.presets.bench.result import Side

STAGES = {"encode": ("positive", "negative"), "loop": ("denoise",), "decode": ("decode",)}


def stage(side: Side, names: tuple[str, ...]) -> float:
    """Milliseconds of the blocks of these names."""
    return 1e3 * sum(row.seconds.median for row in side.blocks if row.path in names)


def main() -> None:
    """Print a table of both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["embedded", "size"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("model", "steps", "decoder", *(f"{name}, ms" for name in STAGES), "whole run, by the autoencoder's")
    for name in ("embedded", "size"):
        if options.only not in (None, name):
            continue
        manager = sf.ComponentsManager()
        embedded = name == "embedded"
        pipe = sf.load("emoji", manager=manager) if embedded else random_pipeline("sd", manager)
        sides: dict[str, Any] = {} if embedded else {"height": 256, "width": 256}
        tiny = sf.models.AutoencoderTiny(latent_channels=8 if embedded else 4).eval().requires_grad_(False)
        for steps in (1, 2, 4):
            values = {"prompt": "a fox", "seed": 7, "num_inference_steps": steps, "guider": "none", **sides}
            found = measure(
                pipe, values, model=name, engines={"tiny": pipe.using(decoder=tiny)}, rounds=options.rounds
            ).sides
            for side, decoder in zip(found, ("autoencoder", "tiny"), strict=True):
                times = (f"{stage(side, blocks):.1f}" for blocks in STAGES.values())
                table.add_row(name, str(steps), decoder, *times, f"{side.ratio:.2f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
