"""The supervisor ends what a process has started, and its parts work where a kernel offers less."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato.components.loading.code.isolated import kernel, landlock, protections, seccomp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is made of Linux calls")

_DAEMON = """
import os, signal, sys, time
from sfumato.components.loading.code.isolated import kernel
from sfumato.components.loading.code.isolated.supervisor import Supervisor
kernel.prctl(kernel.SUBREAPER, 1)
pid = os.fork()
if not pid:  # the process that is supervised: it leaves two daemons, and ends or not
    for _ in range(2):
        if not os.fork():
            os.setsid()
            if not os.fork():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                print(os.getpid(), flush=True)
                while True:
                    time.sleep(1)
            os._exit(0)
        os.wait()
    if sys.argv[1] == "ends":
        os._exit(0)
    time.sleep(600)
time.sleep(0.5)
supervisor = object.__new__(Supervisor)
supervisor.pid, supervisor.status = pid, None
supervisor._end_all()
"""


@pytest.mark.parametrize("how", ["ends", "stays"])
def test_daemons_end_with_the_process_that_started_them(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", _DAEMON, how], capture_output=True, text=True, check=True, timeout=60)
    daemons = [int(pid) for pid in done.stdout.split()]
    assert len(daemons) == 2
    for pid in daemons:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_folder_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    from sfumato.components.loading.code.isolated.supervisor import remove

    top = tmp_path / "top"
    top.mkdir()
    before = os.getcwd()
    os.chdir(top)
    try:
        for _ in range(1500):
            os.mkdir("a" * 20, 0o700)
            os.chdir("a" * 20)
            Path("file").write_text("a")
    finally:
        os.chdir(before)
    (top / "closed").mkdir(0o000)
    (top / "link").symlink_to(tmp_path)
    (tmp_path / "kept").write_text("a")
    remove(str(top))
    assert not top.exists() and (tmp_path / "kept").exists()


def test_a_folder_has_limits_and_removed_files_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.components.loading.code.isolated import supervisor

    monkeypatch.setattr(supervisor, "_FOLDER_BYTES", 10**6)
    monkeypatch.setattr(supervisor, "_FOLDER_ENTRIES", 20)
    (tmp_path / "small").write_bytes(b"a" * 1000)
    assert not supervisor.over_limit(str(tmp_path), os.getpid())
    with open(tmp_path / "large", "wb") as file:
        file.write(b"a" * 2 * 10**6)
        file.flush()
        os.fsync(file.fileno())
        assert supervisor.over_limit(str(tmp_path), os.getpid())
        os.remove(tmp_path / "large")
        assert supervisor.over_limit(str(tmp_path), os.getpid())
    assert not supervisor.over_limit(str(tmp_path), os.getpid())
    for i in range(20):
        (tmp_path / str(i)).touch()
    assert supervisor.over_limit(str(tmp_path), os.getpid())
    deep = tmp_path / "/".join("abcdefghijklmnopqrstuvwxyz")
    deep.mkdir(parents=True)
    monkeypatch.setattr(supervisor, "_FOLDER_ENTRIES", 1000)
    assert supervisor.over_limit(str(tmp_path), os.getpid())


def _no(users: range) -> bool:
    return False


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_filter_is_a_program_that_a_kernel_takes(name: str) -> None:
    architecture, column = seccomp._ARCHITECTURES[name]
    program = seccomp._program(architecture, column, 1)
    assert len(program) % 8 == 0 and len(program) // 8 <= 4096  # BPF_MAXINSNS
    numbers = [each[column] for each in seccomp._REFUSED.values() if each[column] is not None]
    assert len(numbers) == len(set(numbers)) and max(n for n in numbers if n is not None) <= seccomp._LAST


def test_what_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(seccomp, "available", lambda: False)
    monkeypatch.setattr(kernel, "can_become", _no)
    found = {made.what: made for made in protections.protections()}
    assert [made.what for made in found.values() if made.in_force] == ["this process", "descendants"]
    assert found["files"].text == "may read and write what its user may; needs Landlock"
    monkeypatch.setattr(kernel, "LINUX", False)
    assert not [made for made in protections.protections() if made.in_force]


@pytest.mark.parametrize("ids", ["0 0 4294967295", "0 100000 65536\n65536 1000 1"])
def test_another_user_needs_capabilities_and_ids(ids: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/self/status": "Name:\tpython\nCapEff:\t000001ffffffffff\n", "/proc/self/uid_map": ids}

    def opened(path: str) -> io.StringIO:
        return io.StringIO(texts[path])

    monkeypatch.setattr("builtins.open", opened)
    assert kernel.can_become(kernel.USERS)
    texts["/proc/self/uid_map"] = "0 1000 1"
    assert not kernel.can_become(kernel.USERS)
    texts |= {"/proc/self/uid_map": ids, "/proc/self/status": "CapEff:\t0000000000000000\n"}
    assert not kernel.can_become(kernel.USERS)


def test_a_program_that_is_unreadable_for_a_while_is_readable_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.components.loading.code.isolated.launch import _Unreadable

    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(kernel, "can_become", _no)
    before = kernel.prctl(kernel.GET_DUMPABLE)
    made = _Unreadable()
    made.add()
    made.add()
    assert kernel.prctl(kernel.GET_DUMPABLE) == 0
    made.remove()
    assert kernel.prctl(kernel.GET_DUMPABLE) == 0
    made.remove()
    assert kernel.prctl(kernel.GET_DUMPABLE) == before


def test_calls_without_linux_are_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_libc", None)
    with pytest.raises(OSError, match="not implemented"):
        kernel.prctl(kernel.GET_DUMPABLE)
