"""The matrix from the embedded model's latents to colours, as in `blocks/decode/colours.py`: a least squares fit.

`python tests/blocks/fit_colours.py` draws pictures and prints the matrix. Each picture is shrunk to a pixel for each
pixel of its latents, in [-1, 1].
"""

import itertools

import torch
from torch import Tensor

import sfumato as sf

LABELS = (
    "a red apple", "a fox", "a cactus", "a doughnut", "a rocket", "a penguin", "a rainbow", "a crown", "a green leaf",
    "a blue heart", "a purple umbrella", "an orange cat", "the moon", "a strawberry", "a black cat", "a yellow star",
)  # fmt: skip
STYLES = ("noto", "twemoji", "fluent")


def examples(labels: tuple[str, ...], styles: tuple[str, ...], steps: int) -> tuple[Tensor, Tensor]:
    """Latents (pixels, 8), and the colours there (pixels, 3)."""
    pipe = sf.load("emoji")
    prompts = [f"{label}, {style} style" for label, style in itertools.product(labels, styles)]
    run = pipe.stream(prompt=prompts, seed=0, num_inference_steps=steps, output_type="pt")
    *_, last = (event for event in run if isinstance(event, sf.events.StepFinished))
    colours = torch.nn.functional.avg_pool2d(run.outputs.images * 2 - 1, 8)
    return tuple(part.movedim(1, -1).flatten(0, 2) for part in (last.latents, colours))  # pyright: ignore[reportReturnType]  two


def fit(latents: Tensor, colours: Tensor) -> Tensor:
    """The matrix (8 channels and what is added, 3 colours) with the least squares of differences."""
    ones = torch.ones(len(latents), 1)
    return torch.linalg.lstsq(torch.cat([latents.float(), ones], 1).double(), colours.double()).solution.float()


if __name__ == "__main__":
    latents, colours = examples(LABELS, STYLES, 20)
    made = fit(latents, colours)
    for row in made.tolist():
        print("(" + ", ".join(f"{value:.4f}" for value in row) + "),")
    error = colours - torch.cat([latents, torch.ones(len(latents), 1)], 1) @ made
    print("explained:", float(1 - error.var() / colours.var()))
