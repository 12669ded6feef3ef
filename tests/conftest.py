"""What holds for all tests."""

import os
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import settings

# Models here are tiny, and tests run side by side: threads of one test would only wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Code that a page or test trusts is trusted in no other run of the tests.
os.environ["SFUMATO_HOME"] = tempfile.mkdtemp(prefix="sfumato-tests-")

# Tests that are run on a terminal show no bars between their lines.
os.environ["SFUMATO_PROGRESS"] = "0"

# A law says nothing of the clock, and a machine that does other work as well would break it.
settings.register_profile("sfumato", deadline=None)
settings.load_profile("sfumato")

# Benchmarks are programs that `make bench` runs; they import each other by their file names.
collect_ignore_glob = ["benchmarks/*"]


_FORKING = "tests/faults/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that fork often first: a fork copies the page tables of a worker, which grows to gigabytes."""
    items.sort(key=lambda item: _FORKING not in item.nodeid)


# ------------------------------------------------------------------------------------------------ no network
class NetworkRefused(RuntimeError):
    """A test that reaches for another machine. Tests talk to servers that they start themselves, on 127.0.0.1."""


REFUSED: list[str] = []
"""What was refused in this test, also where the library caught the error."""


def is_local(host: Any) -> bool:  # whatever a program passes as a host
    """Whether a host is this machine: a name or an address of the loopback device, or none at all."""
    text = host.decode(errors="replace") if isinstance(host, bytes | bytearray) else host
    if text in (None, "", "localhost"):
        return True
    try:
        address = ip_address(str(text).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse_other_machines(event: str, args: tuple[Any, ...]) -> None:  # the signature of an audit hook
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) and address else None  # else a socket in the file system
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not is_local(host):
        REFUSED.append(f"{event} of {host!r}")
        raise NetworkRefused(
            f"{event} of {host!r}: tests may only reach servers on 127.0.0.1. Start one, or use a fake."
        )


sys.addaudithook(_refuse_other_machines)


@pytest.fixture
def refused() -> list[str]:
    """What was refused until now in this test."""
    return REFUSED


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fail a test that reached for another machine, also where the library took the error for a missing connection."""
    REFUSED.clear()
    yield
    if refused := [*REFUSED]:
        REFUSED.clear()
        pytest.fail(f"This test reached for another machine: {', '.join(refused)}.", pytrace=False)
