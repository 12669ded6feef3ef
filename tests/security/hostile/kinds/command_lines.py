"""Command lines: names with control characters, settings that are no settings, files that are none."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..checkpoint import change_json, checkpoint
from ..commands import command
from ..table import Action, Hostile
from .weights import CONTROL

PLAIN = CONTROL.replace("\0", "")
LINES: dict[str, list[str]] = {
    "nothing": [],
    "an unknown command": [PLAIN],
    "a command of a lone surrogate": ["\udcff"],
    "an unknown option": ["run", f"--{PLAIN}"],
    "a model of control characters": ["inspect", PLAIN],
    "a model of a lone surrogate": ["inspect", "\udcff"],
    "a model of a lone surrogate in JSON": ["inspect", "\udcff", "--json"],
    "a model of control characters in JSON": ["show", PLAIN, "--json"],
    "a model with NUL": ["inspect", "a\0b"],
    "a model of 5000 letters": ["show", "x" * 5000],
    "a model of an empty text": ["check", ""],
    "a model of turned letters": ["check", "a\u202eb"],
    "a task of control characters": ["show", "emoji", "--task", PLAIN],
    "a revision of control characters": ["show", "emoji", "--revision", PLAIN],
    "a variant of control characters": ["inspect", "emoji", "--variant", PLAIN],
    "an svg into a file": ["show", "emoji", "--svg", "/etc/hosts/x.svg"],
    "an svg of control characters": ["show", "emoji", "--svg", f"{PLAIN}/x.svg"],
    "an svg with NUL": ["show", "emoji", "--svg", "a\0b.svg"],
    "a hash of another form": ["show", "emoji", "--trust-remote-code", f"sha256:{PLAIN}"],
    "a graph of a device": ["run", "x", "--graph", "/dev/zero"],
    "a graph of control characters": ["run", "x", "--graph", PLAIN],
    "a graph with NUL": ["run", "x", "--graph", "a\0.json"],
    "a set without a name": ["run", "x", "--set", "=1"],
    "a set of control characters": ["run", "x", "--set", f"{PLAIN}={PLAIN}"],
    "a set of many digits": ["run", "x", "--set", f"num_inference_steps={'9' * 5000}"],
    "a set of deep JSON": ["run", "x", "--set", f"timesteps={'[' * 50_000}"],
    "a set that is not a number": ["run", "x", "--set", "guidance_scale=nan"],
    "a set that is infinite": ["run", "x", "--set", "guidance_scale=inf"],
    "a set of 1e400": ["run", "x", "--set", "guidance_scale=1e400"],
    "a set of 10**9 steps": ["run", "x", "--set", "num_inference_steps=1000000000"],
    "a set of a large size": ["run", "x", "--set", "height=100000000"],
    "a set of underscores": ["run", "x", "--set", "num_inference_steps=1_0", "--set", "height=8", "--set", "width=8"],
    "a set of Arabic digits": [
        "run",
        "x",
        "--set",
        "num_inference_steps=\u0661",
        "--set",
        "height=8",
        "--set",
        "width=8",
    ],
    "a set of a component": ["run", "x", "--set", "unet=os.system"],
    "a set of dunders": ["run", "x", "--set", "__class__=x"],
    "a seed of many digits": ["run", "x", "--seed", "9" * 5000],
    "a seed below zero": ["run", "x", "--seed", "-1"],
    "10**6 pictures": ["run", "x", "-n", "1000000"],
    "9,999 pictures": ["run", "x", "-n", "9999", "--set", "num_inference_steps=1"],
    "a guider of control characters": ["run", "x", "--guider", PLAIN],
    "a guider with a deep setting": ["run", "x", "--guider", f"cfg:guidance_scale={'[' * 50_000}"],
    "a scheduler of os": ["run", "x", "--scheduler", "os.system:a=b"],
    "a scheduler of 10**9 steps": ["run", "x", "--scheduler", "ddim:num_train_timesteps=1000000000"],
    "a scheduler of not a number": ["run", "x", "--scheduler", "euler:beta_end=nan"],
    "a device of control characters": ["run", "x", "--device", PLAIN],
    "a device of another kind": ["run", "x", "--device", "meta"],
    "a dtype of integers": ["run", "x", "--dtype", "int8"],
    "a dtype of control characters": ["run", "x", "--dtype", PLAIN],
    "an output to a device": ["run", "x", "-o", "/dev/full"],
    "an output without end": ["run", "x", "-o", "x" * 300 + ".png"],
    "an output with NUL": ["run", "x", "-o", "a\0b.png"],
    "an output of control characters": ["run", "x", "-o", f"{PLAIN}.xyz"],
    "an output into a file": ["run", "x", "-o", "/etc/hosts/a.png"],
    "an image of a device": ["run", "x", "--image", "/dev/zero"],
    "an image of control characters": ["run", "x", "--image", PLAIN],
    "an image of an address": ["run", "x", "--image", "ftp://127.0.0.1/x"],
    "an image of standard input": ["run", "x", "--image", "-"],
    "a mask without an image": ["run", "x", "--mask", "/dev/zero"],
    "a prompt of a lone surrogate": ["run", "\udcff", "--set", "num_inference_steps=1", "-o", "out.png"],
    "a prompt of a lone surrogate in JSON": [
        "run",
        "\udcff",
        "--set",
        "num_inference_steps=1",
        "--json",
        "-o",
        "out.png",
    ],
    "a prompt of control characters": ["run", PLAIN, "--set", "num_inference_steps=1", "--json", "-o", "out.png"],
    "a prompt that names its file": ["run", "../../../../tmp/x", "--set", "num_inference_steps=1"],
    "a prompt of an option": ["run", "--", "--help", "--set", "num_inference_steps=1"],
    "a prompt of many letters": ["run", "x" * 10**6, "--set", "num_inference_steps=1"],
}


def _renamed(folder: Path, name: str) -> Path:
    return folder.rename(folder.with_name(name))


def _keyed(file: str, key: str) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        change_json(folder / file, lambda data: {**data, key: key})
        return folder

    return change


def _index(folder: Path) -> Path:
    change_json(folder / "model_index.json", lambda data: {**data, PLAIN: ["diffusers", PLAIN], "_class_name": PLAIN})
    return folder


def _named(folder: Path) -> Path:
    (folder / PLAIN).mkdir()
    (folder / PLAIN / f"{PLAIN}.safetensors").write_bytes(b"x")
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / f"unet/{PLAIN}.safetensors")
    return folder


def _code(folder: Path) -> Path:
    (folder / "modular_config.json").write_text(json.dumps({"auto_map": {"ModularPipelineBlocks": "block.Blocks"}}))
    (folder / "block.py").write_text(
        f"import os\n# {PLAIN.replace(chr(10), '')}\nos.system('true')\nclass Blocks: pass\n"
    )
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "called by control characters": lambda folder: _renamed(folder, PLAIN),
    "called by turned letters": lambda folder: _renamed(folder, "a\u202eb"),
    "called by lines": lambda folder: _renamed(folder, "a\nerror: b"),
    "called by a surrogate": lambda folder: _renamed(folder, "\udcff"),
    "called by HTML": lambda folder: _renamed(folder, "<b>"),
    "called by colours of rich": lambda folder: _renamed(folder, "[bold]x[bold]"),
    "with a config key of control characters": _keyed("unet/config.json", CONTROL),
    "with a scheduler key of control characters": _keyed("scheduler/scheduler_config.json", CONTROL),
    "with a component of control characters": _index,
    "with files of control characters": _named,
    "with code": _code,
}


def inputs() -> Iterator[Hostile]:
    """Lines of words, and each command with a folder of odd names."""
    for name, words in LINES.items():
        yield Hostile(name, lambda place, w=words: _in(place, w))
    for name, change in FOLDERS.items():
        for words in (
            ["inspect"],
            ["inspect", "--json"],
            ["check"],
            ["show"],
            ["show", "--mermaid"],
            ["run", "a fox", "--model"],
        ):
            yield Hostile(f"{' '.join(words)} a folder {name}", lambda place, w=words, c=change: _folder(place, w, c))
    for words in (
        [
            "run",
            "a fox",
            "--set",
            "height=2048",
            "--set",
            "width=2048",
            "--set",
            "num_inference_steps=1",
            "-o",
            "x.png",
        ],
    ):
        yield Hostile("memory that is not there", lambda place, w=words: _short_of_memory(place, w))


def _in(place: Path, words: list[str]) -> Action:
    os.chdir(place)
    return command(*words)


def _folder(place: Path, words: list[str], change: Callable[[Path], Path]) -> Action:
    os.chdir(place)
    return command(*words, str(change(checkpoint(place))))


def _short_of_memory(place: Path, words: list[str]) -> Action:
    import resource

    os.chdir(place)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 3 * 10**8

    def action() -> object:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            return command(*words)()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) if resource.getrlimit(resource.RLIMIT_AS)[
                1
            ] == -1 else None

    return action
