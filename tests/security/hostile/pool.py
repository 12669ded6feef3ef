"""The verdicts of all inputs of a kind, from a process that forks a child for each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[3]


class Verdict(NamedTuple):
    """What one input did."""

    name: str
    verdict: str
    """"accepted", or "refused: …" with the text."""
    faults: list[str]
    """What must not be. Empty if all is well."""
    seconds: float
    peak: int
    """The memory that it took beside what its process had before, in bytes."""


class Pool:
    """Starts the process, and asks it for one kind after another."""

    def __init__(self, root: Path) -> None:
        paths = [str(Path(__file__).parents[1]), str(ROOT / "src")]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "SFUMATO_HOME": str(root / "home"),
            "HF_HOME": str(root / "hf"), "TMPDIR": str(root), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hostile.zygote", str(root)], env=environment, text=True, cwd=root,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._line() == "ready\n", "the process of the inputs did not start"

    def verdicts(self, kind: str, pattern: str = "") -> list[Verdict]:
        """The verdicts of a kind, of the inputs whose names contain `pattern`."""
        assert self._process.stdin is not None
        print(kind, pattern, file=self._process.stdin, flush=True)
        found: list[Verdict] = []
        while (line := self._line()) != "\n":
            assert line, "the process of the inputs ended"
            data: dict[str, Any] = json.loads(line)
            found.append(Verdict(data["name"], data["verdict"], data["faults"], data["seconds"], data["peak"]))
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()
