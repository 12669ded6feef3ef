"""Time a denoising step beside diffusers' pipeline, and beside a loop that is written by hand, in turns.

`python tests/benchmarks/bench_denoise.py [--only NAME …] [--rounds N] [--threads N]`. The models are those of
`subjects.py`. The targets are a ratio of 0.95 to diffusers, and of 1.03 to the loop by hand.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from paired import in_turns, ratio, seconds
from rich.console import Console
from rich.table import Table
from subjects import GUIDANCE, SUBJECTS, Subject, subjects

ROUNDS = {"embedded": 12, "SD 1.5 size": 5, "tiny SDXL": 8, "tiny Flux": 8}


def by_hand(subject: Subject) -> Callable[[], float]:
    """The denoising loop of the embedded model without a framework: a model, a scheduler, two passes in one forward."""
    graph = subject.graph
    model, scheduler = subject.model, graph.bindings["scheduler"].load()
    encode = graph.only("positive")
    tokens = torch.cat([encode(prompt=prompt).positive.tokens for prompt in (subject.values["prompt"], "")])

    @torch.no_grad()
    def step() -> float:
        schedule = scheduler.steps(subject.steps)
        sample, history, ends = torch.randn(1, 8, 8, 8), (), list[float]()
        for step in schedule:
            scaled = sample * step.scale_in
            both = model(torch.cat([scaled, scaled]), step.t.expand(2), tokens)
            positive, negative = both.chunk(2)
            guided = negative + GUIDANCE * (positive - negative)
            sample, history = scheduler.advance(sample, guided, step, history, None)
            ends.append(time.perf_counter())
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    return step


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], choices=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=0, help="in place of the usual number for each model")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    table = Table(
        "model", "ours, ms a step", "by diffusers", "by a loop by hand", "difference", title="a denoising step"
    )
    for subject in subjects(*options.only):
        versions = {"ours": subject.our_step, "diffusers": subject.their_step}
        if subject.name == "embedded":
            versions["by hand"] = by_hand(subject)
        rounds = in_turns(versions, options.rounds or ROUNDS[subject.name])
        hand = str(ratio(rounds, "ours", "by hand")) if "by hand" in versions else ""
        mine = seconds(rounds, "ours").median * 1e3
        table.add_row(
            subject.name, f"{mine:.2f}", str(ratio(rounds, "ours", "diffusers")), hand, f"{subject.difference():.1e}"
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
