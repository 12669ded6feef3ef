"""Small files cost little: with other numbers they load at a finite cost, or are refused with an error of ours.

The law has few examples by default: SFUMATO_EXAMPLES=2000 pytest tests/security/test_bounds.py is the long run.
"""

import os
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .bounds.changes import changed, places, values
from .bounds.subjects import subjects
from .bounds.worker import SECONDS, Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory by RLIMIT_AS, as Linux counts it")

EXAMPLES = int(os.environ.get("SFUMATO_EXAMPLES", "120"))


@pytest.fixture(scope="module")
def worker() -> Generator[Worker]:
    made = Worker()
    yield made
    made.close()


@st.composite
def changed_files(draw: st.DrawFn) -> tuple[str, list[tuple[Any, Any]]]:
    """A subject, and values for some of its places."""
    name = draw(st.sampled_from(sorted(subjects())))
    place = st.sampled_from(list(places(subjects()[name].content)))
    return name, draw(st.lists(st.tuples(place, values), min_size=1, max_size=3))


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    print_blob=True,
)
@given(changed_files())
def test_a_file_with_other_numbers_loads_or_is_refused(worker: Worker, case: tuple[str, list[tuple[Any, Any]]]) -> None:
    name, changes = case
    outcome = worker.read(name, changed(subjects()[name].content, changes))
    assert outcome.kind in ("loaded", "refused"), outcome
    assert outcome.seconds < SECONDS, outcome
