"""Files of a checkpoint that are no plain files, that cannot be read, or that change while they are used."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import sfumato as sf

from ..checkpoint import CALL, WEIGHTS, checkpoint, each, fresh, single_file, used
from ..table import Action, Hostile

FILES = (
    "model_index.json",
    f"unet/{WEIGHTS}",
    "unet/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "scheduler/scheduler_config.json",
    "graph.json",
)


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _link(target: str) -> Callable[[Path], None]:
    return lambda file: file.symlink_to(target)


def _circle(file: Path) -> None:
    file.symlink_to(file.with_name("other"))
    file.with_name("other").symlink_to(file)


def _socket(file: Path) -> None:
    import socket

    before = os.getcwd()
    os.chdir(file.parent)
    socket.socket(socket.AF_UNIX).bind(file.name)
    os.chdir(before)


def _sparse(file: Path) -> None:
    file.write_bytes(b"")
    os.truncate(file, 10**11)


WAYS: dict[str, Callable[[Path], None]] = {
    "a pipe": _pipe,
    "a link to a pipe": lambda file: (_pipe(file.with_name("pipe")), file.symlink_to("pipe"))[0],
    "a link to itself": lambda file: file.symlink_to(file),
    "a circle of links": _circle,
    "a link to nothing": _link("nothing"),
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to /dev/stdin": _link("/dev/stdin"),
    "a link to /proc/self/mem": _link("/proc/self/mem"),
    "a link to /etc/passwd": _link("/etc/passwd"),
    "a link above": _link("../../../x"),
    "a socket": _socket,
    "a folder": lambda file: file.mkdir(),
    "100 GB of zeros": _sparse,
}
FOLDERS = ("unet", "tokenizer", "scheduler", "vae")


def inputs() -> Iterator[Hostile]:
    """Each way for several files and folders; names; and files that change after they were opened."""
    for number, (name, way) in enumerate(WAYS.items()):
        for offset in range(4):
            file = FILES[(number + offset * 3) % len(FILES)]
            yield Hostile(f"{file} is {name}", lambda place, f=file, w=way: _replaced(place, f, w))
        folder = FOLDERS[number % 4]
        yield Hostile(f"{folder} is {name}", lambda place, f=folder, w=way: _folder(place, f, w))
        yield Hostile(f"a single file is {name}", lambda place, w=way: _single(place, w))
        yield Hostile(f"a single pickle is {name}", lambda place, w=way: _single(place, w, "x.ckpt"))
    for name, change in CHANGES.items():
        yield Hostile(f"weights are {name} between loading and use", lambda place, c=change: _between(place, c))
        yield Hostile(
            f"a single file is {name} between loading and use", lambda place, c=change: _between_single(place, c)
        )
        yield Hostile(f"weights are {name} while they are used", lambda place, c=change: _while_used(place, c))
    for name, x in NAMES.items():
        yield Hostile(f"a source called {name}", lambda place, x=x: _named(place, x))


NAMES: dict[str, str] = {
    "with NUL": "a\0b",
    "with control characters": "\x1b[31mx\x07",
    "of a lone surrogate": "\udcff",
    "of 5000 letters": "x" * 5000,
    "of 100,000 letters": "x/" * 50_000,
    "of 300 letters": "x" * 300,
    "nothing": "",
    "a point": ".",
    "two points": "..",
    "a home": "~nobody-at-all/x",
    "a device": "/dev/zero",
    "standard input": "/dev/stdin",
    "a device with an end": "/dev/zero/x.safetensors",
    "a process": "/proc/self/fd/0",
    "the root": "/",
    "an address": "http://127.0.0.1:1/x",
    "a file address": "file:///etc/passwd",
    "an address with a password": "https://u:p@huggingface.co/a/b",
    "a repo with points": "a/..",
    "a repo of a dash": "-a/b",
    "spaces": "   ",
    "a line end": "emoji\n",
    "a JSON text": '{"a": 1}',
    "options": "--help",
    "turned letters": "emo\u202eij",
}


def _replaced(place: Path, name: str, way: Callable[[Path], None]) -> Action:
    folder = checkpoint(place)
    file = folder / name
    file.unlink(missing_ok=True)
    way(file)
    return used(folder)


def _folder(place: Path, name: str, way: Callable[[Path], None]) -> Action:
    folder = checkpoint(place)
    shutil.rmtree(folder / name)
    way(folder / name)
    return used(folder)


def _single(place: Path, way: Callable[[Path], None], name: str = "x.safetensors") -> Action:
    way(place / name)
    return used(place / name, allow_pickle=True)


def _named(place: Path, x: str) -> Action:
    os.chdir(place)
    return lambda: each(
        lambda: str(sf.inspect(x, local_files_only=True)),
        lambda: str(sf.load(x, manager=fresh(), local_files_only=True)),
        lambda: str(sf.load_component(x, manager=fresh(), local_files_only=True)),
    )


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _emptied(file: Path) -> None:
    os.truncate(file, 0)


def _other(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _removed(file: Path) -> None:
    file.unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "emptied": _emptied,
    "overwritten": _other,
    "removed": _removed,
}


def _between(place: Path, change: Callable[[Path], None]) -> Action:
    folder = checkpoint(place)
    pipe = sf.load(folder, manager=fresh())
    change(folder / "unet" / WEIGHTS)
    return lambda: pipe(**CALL)


def _between_single(place: Path, change: Callable[[Path], None]) -> Action:
    file = single_file(place)
    pipe = sf.load(file, manager=fresh())
    change(file)
    return lambda: pipe(**CALL)


def _while_used(place: Path, change: Callable[[Path], None]) -> Action:
    """The weights are on the machine and mapped; then their file changes, and they are used again."""
    folder = checkpoint(place)
    pipe = sf.load(folder, manager=fresh(), dtype="float16")
    half = {name: value for name, value in CALL.items() if name != "num_inference_steps"}
    pipe.only("positive")(prompt="a fox")
    for value in pipe.bindings.values():
        value.load()
    change(folder / "unet" / WEIGHTS)
    return lambda: pipe(**half, num_inference_steps=1)
