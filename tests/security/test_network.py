"""Tests reach no other machine: the fixture of `tests/conftest.py` refuses it, and fails the test that tries."""

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from urllib.error import URLError
from urllib.request import urlopen

import pytest

OTHER = "192.0.2.1"  # an address for documentation, which no machine has (RFC 5737)


def udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"fox", (OTHER, 9))


def tcp() -> None:
    socket.create_connection((OTHER, 80), timeout=1)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "tcp": tcp,
    "udp": udp,
    "a name": lambda: socket.getaddrinfo("huggingface.co", 443),
    "an old call": lambda: socket.gethostbyname("huggingface.co"),
    "an address of the web": lambda: urlopen("http://example.com", timeout=1),
    "another address of the web": lambda: urlopen("http://[2001:db8::1]/", timeout=1),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_another_machine_cannot_be_reached(name: str, refused: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"^socket\.\w+ of .*: tests may only reach servers on 127.0.0.1. Start one"):
        ATTEMPTS[name]()
    assert len(refused) == 1
    refused.clear()  # else this test would fail at its end


def test_an_attempt_that_is_caught_is_remembered(refused: list[str]) -> None:
    with suppress(Exception):  # as a library does that takes it for a missing connection
        tcp()
    assert refused == [f"socket.getaddrinfo of {OTHER!r}"]
    refused.clear()


def test_an_attempt_of_a_thread_is_remembered(refused: list[str]) -> None:
    def attempt() -> None:
        with suppress(RuntimeError):
            tcp()

    thread = Thread(target=attempt)
    thread.start()
    thread.join()
    assert refused
    refused.clear()


def test_a_server_of_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1]), timeout=5).close()
    with pytest.raises(URLError, match="Connection refused"):
        urlopen("http://127.0.0.1:1/", timeout=5)
    one, other = socket.socketpair()
    one.close()
    other.close()
