"""Values of this library go to another process and come back as they went; faults there leave nothing behind here."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato.components import conditioning
from sfumato.components.loading.code.isolated.descriptions import describe, type_of
from sfumato.components.loading.code.isolated.messages import CannotSend, pack, unpack
from sfumato.components.loading.code.isolated.records import records
from sfumato.components.random import Random
from sfumato.components.schedulers.schedule import Schedule
from sfumato.components.types import Rows, Steps

from .test_isolated_blocks import put

CODE = """
import os, time
from dataclasses import replace
from typing import NamedTuple

import sfumato as sf
import torch
from PIL import Image
from sfumato.components.conditioning import Conditioning, SDXLConditioning
from sfumato.components.types import Random, Rows, Steps


class Out(NamedTuple):
    positive: SDXLConditioning
    steps: Steps
    random: Random
    picture: Image.Image
    rows: Rows
    noise: torch.Tensor


class Work(sf.Block):
    def __call__(
        self, positive: SDXLConditioning, steps: Steps, random: Random, picture: Image.Image, rows: Rows
    ) -> Out:
        noise, random = random.draw(2, (3,))
        return Out(replace(positive, tokens=positive.tokens * 2), steps[1:], random, picture.rotate(180), rows, noise)


class Told(NamedTuple):
    told: str


class Odd(Exception):
    def __init__(self, a, b):
        self.lock = (a, b, lambda: a)

    def __str__(self):
        raise RuntimeError("no text either")


class Tell(sf.Block):
    def __call__(self, what: str) -> Told:
        if what == "exit":
            os._exit(7)
        if what == "loop":
            while True:
                pass
        if what == "long":
            return Told("x" * (20 * 2**20))
        if what == "chatter":
            for _ in range(20_000):
                print("y" * 100)
        if what == "odd":
            raise Odd(1, 2)
        return Told(str(os.getpid()))
"""


def blocks(folder: Path, **auto_map: str) -> Any:  # the blocks of a saved graph, by name
    return sf.load(put(folder, CODE, **auto_map), trust_remote_code="isolated")


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_ISOLATED_SECONDS", "20")


@pytest.fixture(scope="module")
def tell(tmp_path_factory: pytest.TempPathFactory) -> Any:  # a block
    return blocks(tmp_path_factory.mktemp("values") / "repo", tell="block.Tell")["tell"]


def gone(pid: str | int) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    return (
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z" if sys.platform == "linux" else False
    )


def schedule() -> Schedule:
    return sf.schedulers.EulerDiscreteScheduler().steps(4)


# ---------------------------------------------------------------------------------------------------- values
def crossed(value: Any) -> Any:
    tensors: list[torch.Tensor] = []
    return unpack(pack(value, tensors), tensors)


def test_every_conditioning_comes_as_it_went() -> None:
    made = torch.Generator().manual_seed(0)
    told = {name: cls for name, cls in records().items() if issubclass(cls, conditioning.Conditioning)}
    assert len(told) >= 6
    for cls in told.values():
        names = [f.name for f in fields(cls) if f.name != "over_steps"]
        tensors: dict[str, Any] = {
            name: torch.randn(2, 3, 4, generator=made)[..., : 4 if i == 0 else 1].squeeze(-1)
            for i, name in enumerate(names)
        }
        value = cls(**tensors)
        back = crossed(value)
        assert type(back) is cls
        assert all(torch.equal(getattr(back, name), getattr(value, name)) for name in names)
        assert type_of(describe(cls)) is cls


def test_schedules_steps_and_generators_come_as_they_went() -> None:
    for steps in (schedule(), schedule()[1:3], sf.schedulers.DDIMScheduler().steps(3)):
        back = crossed(steps)
        assert back == steps and repr(back) == repr(steps)
        assert back.device_timesteps.dtype == steps.device_timesteps.dtype  # a clock of ints stays one
        assert crossed(steps[0]) == steps[0]
    random = Random.seeded([3, 4])
    assert torch.equal(crossed(random).draw(2, (5,))[0], random.draw(2, (5,))[0])
    assert crossed(Rows(2, 3)) == Rows(2, 3) and type(crossed(Rows(2, 3))) is Rows
    assert crossed((None, (1, (2.0, "a")), {"b": (True,)})) == (None, (1, (2.0, "a")), {"b": (True,)})
    assert type_of(describe(Steps)) == Steps


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "I;16", "F"])
def test_pictures_come_as_they_went(mode: str) -> None:
    picture = Image.linear_gradient("L").resize((5, 3)).convert("I" if mode == "I;16" else mode).convert(mode)
    back = crossed(picture)
    assert (back.mode, back.size, back.tobytes()) == (mode, (5, 3), picture.tobytes())


@pytest.mark.parametrize(
    "data",
    [
        {"record": "Random", "parts": {"states": {"value": 3}}},
        {"record": "Schedule", "parts": {"sigmas": {"items": []}, "timesteps": {"items": [{"value": 1}]}}},
        {"record": "Step", "parts": {}},
        {"record": "SDConditioning", "parts": {"tokens": {"value": "a"}}},
        {"record": "Pass", "parts": {}},
        {"record": "Rows", "parts": {"prompts": {"value": 1}, "each": {"value": 1}, "more": {"value": 1}}},
        {"record": "Rows", "parts": {"prompts": {"value": 1}, "each": {"value": 10**9}}},
        {"record": "Rows", "parts": {"prompts": {"value": -1}, "each": {"value": -1}}},
        {"record": "Random", "parts": {"states": {"items": [{"tensor": 0}]}}},
        {"record": "Random", "parts": {"states": {"items": []}}},
        {
            "record": "Schedule",
            "parts": {"sigmas": {"items": [{"value": 1.0}] * 2}, "timesteps": {"items": [{"value": 10**30}]}},
        },
        {"picture": "L", "size": [4, 10**6], "bytes": 0},
        {"picture": "1", "size": [9, 4], "bytes": 0},
        {"picture": "RGB", "size": [9, 9], "bytes": 0},
        {"picture": "P", "size": [1, 1], "bytes": 0},
        {"picture": "L", "size": [-1, 1], "bytes": 0},
    ],
)
def test_what_is_no_such_value_is_refused(data: Any) -> None:
    with pytest.raises(CannotSend):
        unpack(data, [torch.zeros(4, dtype=torch.uint8)])


def test_a_block_of_such_values_gives_what_it_gives_here(tmp_path: Path) -> None:
    made = torch.Generator().manual_seed(0)
    cls = conditioning.SDXLConditioning
    positive = cls(*(torch.randn(*shape, generator=made) for shape in ((2, 5, 4), (2, 3), (2, 6))))
    given: dict[str, Any] = {
        "positive": positive,
        "steps": schedule(),
        "random": Random.seeded([5]),
        "picture": Image.linear_gradient("L"),
        "rows": Rows(1, 2),
    }
    folder = put(tmp_path / "repo", CODE, block="block.Work")
    text = (folder / "graph.json").read_text()
    wires = ", ".join(f'{{"from": "inputs.{n}", "to": "block.{n}", "how": "ruled"}}' for n in given)
    (folder / "graph.json").write_text(text.replace('"edges": []', f'"edges": [{wires}]'))
    there, here = (sf.load(folder, trust_remote_code=trust)(**given) for trust in ("isolated", True))
    assert type(there.positive) is cls and torch.equal(there.positive.tokens, here.positive.tokens)
    assert torch.equal(there.positive.time_ids, positive.time_ids)
    assert there.steps == here.steps and len(there.steps) == 3 and there.rows == here.rows
    assert torch.equal(there.noise, here.noise)
    assert torch.equal(there.random.draw(1, (2,))[0], here.random.draw(1, (2,))[0])
    assert there.picture.tobytes() == here.picture.tobytes()


# ---------------------------------------------------------------------------------------------------- faults
def test_a_process_that_leaves_or_says_too_much_is_told_and_the_next_call_is_answered(tell: Any) -> None:
    for what, said in (("exit", "its process ended with status 7 in tell"),):
        pid = tell(what="pid").told
        with pytest.raises(sf.BrokenBlock, match=said):
            tell(what=what)
        assert gone(pid) and tell(what="pid").told != pid
    before = tell(what="pid").told
    with pytest.raises(sf.BrokenBlock, match=r"has 21.0 MB of plain values, and 4.2 MB are possible"):
        tell(what="long")
    assert tell(what="chatter").told == before  # what it prints is no answer
    with pytest.raises(sf.BrokenBlock, match="Odd"):
        tell(what="odd")
    assert tell(what="pid").told == before


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT for itself")
def test_ctrl_c_in_the_middle_of_a_call_ends_the_process_and_no_old_answer_comes_later(tell: Any) -> None:
    before = tell(what="pid").told
    threading.Timer(0.5, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        tell(what="loop")
    assert gone(before)
    after = tell(what="pid").told
    assert after != before and not gone(after)


def test_no_process_is_left_when_the_program_ends_however_it_ends(tmp_path: Path) -> None:
    put(tmp_path / "repo", CODE, tell="block.Tell")
    code = (
        "import os, sys, threading, sfumato as sf\n"
        "tell = sf.load('./repo', trust_remote_code='isolated')['tell']\n"
        "print(tell(what='pid').told, flush=True)\n"
        "if sys.argv[1] == 'killed': os.kill(os.getpid(), 9)\n"
        "if sys.argv[1] == 'killed in a call':\n"
        "    threading.Timer(0.5, lambda: os.kill(os.getpid(), 9)).start()\n"
        "    tell(what='loop')\n"
    )
    env = {**os.environ, "SFUMATO_HOME": str(tmp_path / "kept"), "SFUMATO_ISOLATED_SECONDS": "200"}
    for how in ("returns", "killed", "killed in a call"):
        done = subprocess.run(
            [sys.executable, "-c", code, how], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.stdout, done.stderr
        until = time.monotonic() + 20
        while not gone(done.stdout.strip()) and time.monotonic() < until:
            time.sleep(0.05)
        assert gone(done.stdout.strip()), how
