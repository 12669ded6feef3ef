"""Hundreds of hostile inputs: each is refused with an error of ours, or accepted with a finite result.

None takes more than 5 seconds or a gigabyte, prints a control character, starts a program, writes elsewhere or asks
another machine. `hostile/kinds` has a module for each kind; each input runs in a process of its own, which is watched.
Other seeds try other numbers and bytes, and a long search tries more of them:
SFUMATO_HOSTILE_SEED=7 SFUMATO_EXAMPLES=2000 pytest tests/security/test_hostile_inputs.py
"""

import sys
from collections.abc import Generator

import pytest

from .hostile.pool import Pool
from .hostile.table import KINDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what a process does from /proc")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pool]:
    made = Pool(tmp_path_factory.mktemp("hostile"))
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs_are_refused_or_harmless(kind: str, pool: Pool) -> None:
    faults = {verdict.name: verdict.faults for verdict in pool.verdicts(kind) if verdict.faults}
    lines = [f"{name}: {'; '.join(texts)}" for name, texts in faults.items()]
    assert not lines, f"{len(lines)} inputs of the kind {kind}\n" + "\n".join(lines)


def test_there_are_six_hundred_of_them() -> None:
    """The modules of the kinds are imported here too, so that a fault in one of them has its own line."""
    from .hostile.table import inputs

    assert sum(len(inputs(kind)) for kind in KINDS) >= 600
