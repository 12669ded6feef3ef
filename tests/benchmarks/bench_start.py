"""Time from process start to a written picture, beside diffusers doing the same, in pairs, and where the time goes.

With `--against FOLDER`: start-up of this checkout beside another one's, also of the commands that need no model.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from checkouts import HERE, compare, environment, other_checkout
from paired import in_turns, ratio
from paired import seconds as spread
from rich.console import Console
from rich.table import Table

EMOJI = HERE / "presets/embedded/emoji"
PAIRS = 5

THEIRS = f"""
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(EMOJI)!r}, torch_dtype=torch.float32)
image = pipe("a red apple", num_inference_steps=5, guidance_scale=4.0, height=64, width=64,
             generator=torch.Generator().manual_seed(7)).images[0]
image.save("theirs.png")
"""
PICTURE = ["-m", "sfumato", "run", "a red apple", "-o", "ours.png", "--seed", "7", "--set", "num_inference_steps=5"]
STARTS = {
    "import sfumato": ["-c", "import sfumato"],
    "import torch": ["-c", "import torch"],
    "sfumato --help": ["-m", "sfumato", "--help"],
    "sfumato presets": ["-m", "sfumato", "presets"],
    "sfumato run, 5 steps": PICTURE,
}
"""What is measured against another checkout: arguments of Python. torch's own start is there to be compared with."""


STAGES = {
    "Python": "",
    "importing torch": "import torch",
    "loading the graph": "from sfumato.presets.load import load; pipe = load('emoji')",
    "checking, and the run": "image = pipe(prompt='a red apple', seed=7, num_inference_steps=5).images[0]",
    "writing": "image.save('ours.png')",
}
"""What a run does, one after another. The seconds of a stage are those that a process takes longer with it."""


def start(arguments: list[str], folder: str, checkout: Path = HERE) -> None:
    """Run a Python process from start to end."""
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=folder, env=environment(checkout), check=True, capture_output=True)


def seconds(arguments: list[str], folder: str) -> float:
    """How long a Python process takes from start to end."""
    began = time.perf_counter()
    start(arguments, folder)
    return time.perf_counter() - began


def cpu_seconds(arguments: list[str], folder: str, checkout: Path) -> float:
    """How long a Python process uses the CPU."""
    before = os.times()
    start(arguments, folder, checkout)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print what the arguments ask for."""
    with tempfile.TemporaryDirectory() as folder:
        if other := other_checkout(sys.argv[1:]):
            compare(
                "start-up", "s", list(STARTS), lambda name, root: cpu_seconds(STARTS[name], folder, root), other, PAIRS
            )
        else:
            beside_diffusers(folder)


def beside_diffusers(folder: str) -> None:
    """Print the seconds of both, their ratio, and the seconds of our stages."""
    versions = {"ours": PICTURE, "diffusers": ["-c", THEIRS]}
    scripts = ["\n".join([*STAGES.values()][: i + 1]) for i in range(len(STAGES))]
    versions |= {name: ["-c", script] for name, script in zip(STAGES, scripts, strict=True)}
    works = {name: partial(seconds, arguments, folder) for name, arguments in versions.items()}
    rounds = in_turns(works, PAIRS)
    table = Table("ours, s", "diffusers, s", "ratio", title="process start to picture, 5 steps")
    both = (str(spread(rounds, name)) for name in ("ours", "diffusers"))
    table.add_row(*both, str(ratio(rounds, "ours", "diffusers")))
    Console(width=130).print(table)
    table = Table("stage", "s", title="where the time goes")
    before = 0.0
    for name in STAGES:
        median = spread(rounds, name).median
        table.add_row(name, f"{median - before:.2f}")
        before = median
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
