"""Code in a separate process tries to get out: each way is refused or does no harm, and honest blocks work."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import sfumato as sf
from sfumato.components.loading.code.isolated import landlock
from sfumato.components.loading.code.isolated.protections import protections

FORCE = {made.what: made.in_force for made in protections()}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="code runs in a separate process on Linux and macOS only")


def needs(*what: str) -> pytest.MarkDecorator:
    missing = [name for name in what if not FORCE[name]]
    return pytest.mark.skipif(bool(missing), reason=f"this machine protects no {', '.join(missing)}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / ".ssh").mkdir()
    (folder / ".ssh/id_rsa").write_text("PRIVATE KEY")
    return folder


@pytest.fixture(scope="module")
def hostile(home: Path) -> Generator[sf.Block]:
    """The block, in a process that a thread started which has ended since."""
    repo = home / "repo"
    repo.mkdir()
    shutil.copy(Path(__file__).with_name("hostile_block.py"), repo / "block.py")
    (repo / "modular_config.json").write_text(json.dumps({"auto_map": {"ModularPipelineBlocks": "block.Hostile"}}))
    (repo / "secret.py").write_text("KEY = 'a key'")
    (repo / "notes.txt").write_text("notes")
    before = dict(os.environ)
    os.environ.update(HF_TOKEN="hf_secret", SFUMATO_ISOLATED_SECONDS="100")
    with ThreadPoolExecutor(1) as threads:
        made = threads.submit(sf.load, repo, trust_remote_code="isolated").result()
    yield made["hostile"]
    os.environ.clear()
    os.environ.update(before)


def attempt(block: sf.Block, way: str, path: Path | str = "") -> str:
    return str(block(way=way, program=os.getpid(), path=str(path)).text)


# ---------------------------------------------------------------------------------------------------- honest blocks
def test_an_honest_block_computes_writes_its_own_files_and_starts_threads(hostile: sf.Block) -> None:
    made = hostile(way="work").value
    assert made["both"] == ("a", "a") and made["picture"].size == (3, 2)
    assert torch.equal(made["sum"], torch.full((64, 64), 64.0))


def test_no_token_is_in_its_environment(hostile: sf.Block) -> None:
    text = hostile(way="environment").value
    assert "secret" not in text and "HF_TOKEN" not in text


def test_it_has_no_open_files_but_its_own(hostile: sf.Block, home: Path) -> None:
    with open(home / ".ssh/id_rsa") as file:
        os.set_inheritable(file.fileno(), True)
        assert hostile(way="open_files").value == 5  # nothing, output twice, requests, answers


# ---------------------------------------------------------------------------------------------------- files
@needs("files")
@pytest.mark.parametrize("way", ["read", "write", "append", "cut", "remove", "move", "link", "hard_link"])
def test_a_private_file_is_neither_read_nor_changed(hostile: sf.Block, home: Path, way: str) -> None:
    key = home / ".ssh/id_rsa"
    assert attempt(hostile, way, key).startswith("refused: ")
    assert key.read_text() == "PRIVATE KEY"


@needs("files")
def test_folders_are_closed(hostile: sf.Block, home: Path) -> None:
    for folder in (home, home / ".ssh", home / "repo", Path.home(), "/tmp", "/etc", "/proc", "/proc/self/fd", "/"):
        assert attempt(hostile, "names", folder) == "refused: Permission denied", folder
    for file in (home / "new", "/tmp/new", Path(sf.__file__), Path(torch.__file__), "/dev/shm/new", "new/../../new"):
        assert attempt(hostile, "write", file).startswith("refused: "), file
    assert attempt(hostile, "read", "/etc/passwd") == "refused: Permission denied"


@needs("programs")
def test_mode_and_times_of_a_file_do_not_change(hostile: sf.Block, home: Path) -> None:
    key = home / ".ssh/id_rsa"
    before = key.stat()
    for way in ("mode", "times"):
        assert attempt(hostile, way, key) == "refused: Operation not permitted"
    assert key.stat() == before


def test_files_of_the_repo_that_are_not_listed_are_not_there(hostile: sf.Block) -> None:
    assert attempt(hostile, "sibling_by_path") == "refused: No such file or directory"
    assert hostile(way="names_beside").value == "block.py"
    with pytest.raises(sf.BrokenBlock, match="ModuleNotFoundError"):
        hostile(way="sibling")


# ---------------------------------------------------------------------------------------------------- this process
@needs("this process")
@pytest.mark.parametrize("name", ["environ", "mem", "maps", "root/etc/passwd", "cwd", "fd/0", "stack", "auxv"])
def test_this_process_cannot_be_read_under_proc(hostile: sf.Block, name: str) -> None:
    assert attempt(hostile, "read", f"/proc/{os.getpid()}/{name}").startswith("refused: ")


@needs("this process")
@pytest.mark.parametrize("way", ["memory_of_program", "files_of_program", "trace", "read_memory"])
def test_this_process_cannot_be_traced(hostile: sf.Block, way: str) -> None:
    assert attempt(hostile, way).startswith("refused: ")


@needs("other processes", "programs")
@pytest.mark.parametrize(
    "way", ["kill", "kill_supervisor", "kill_all", "kill_thread", "pidfd", "slow_down", "signal_by_file"]
)
def test_other_processes_get_no_signals(hostile: sf.Block, way: str) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        assert attempt(hostile, way) == "refused: Operation not permitted"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not received and attempt(hostile, "nothing") == "done"


@needs("programs")
@pytest.mark.parametrize(
    "way",
    ["fork", "daemon", "start", "spawn", "shell", "execute", "survive", "leave", "namespace", "more_memory",
     "type_into_terminal", "memory_file", "shared_memory"],
)  # fmt: skip
def test_programs_namespaces_and_new_limits_are_refused(hostile: sf.Block, way: str) -> None:
    assert attempt(hostile, way) == "refused: Operation not permitted"


def test_it_has_no_terminal(hostile: sf.Block) -> None:
    assert attempt(hostile, "terminal").startswith("refused: ")


@needs("network")
@pytest.mark.parametrize("way", ["socket", "local_socket", "raw_socket"])
def test_there_is_no_network(hostile: sf.Block, way: str) -> None:
    assert attempt(hostile, way) == "refused: Operation not permitted"


# ---------------------------------------------------------------------------------------------------- limits
def test_files_have_limits(hostile: sf.Block) -> None:
    assert attempt(hostile, "large_file") == "refused: File too large"
    assert attempt(hostile, "many_files") == "refused: Too many open files"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_memory_has_a_limit(hostile: sf.Block) -> None:
    with pytest.raises(sf.BrokenBlock, match=r"can't allocate memory.*Set SFUMATO_ISOLATED_GB to allow more memory\."):
        hostile(way="memory")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to look into")
def test_between_calls_no_thread_of_it_runs(hostile: sf.Block) -> None:
    pid = hostile(way="work_on").value
    until = time.monotonic() + 20
    while about(pid)[0] != "T" and time.monotonic() < until:
        time.sleep(0.02)
    used = about(pid)[11:13]
    time.sleep(0.2)
    assert about(pid)[0] == "T" and about(pid)[11:13] == used  # its processor time
    assert attempt(hostile, "nothing") == "done"


@pytest.mark.parametrize(
    ("way", "why"),
    [
        (
            "expanded",
            r"its answer has tensors of 4398046.5 MB, and 512.0 MB are possible. Set SFUMATO_ISOLATED_ANSWER_MB to",
        ),
        ("many", r"its answer has 2000 tensors, and 1000 are possible"),
        ("nested", r"has more than 32 levels"),
        ("long_text", r"its answer has 10.0 MB of plain values, and 4.2 MB are possible"),
        ("an_object", r"a value of its answer is a Rude; only tensors, plain values, .* can be sent"),
        ("odd_dtype", r"is a tensor of complex128"),
        ("raise_rude", r"Rude: its text cannot be read"),
        ("raise_named", r"\\x1b\[2J: \\x1b\]0;title\\x07x"),
        ("raise_cycle", r"ValueError: a"),
    ],
)
def test_answers_and_errors_have_limits(hostile: sf.Block, way: str, why: str) -> None:
    before = hostile(way="nothing").value
    with pytest.raises(sf.BrokenBlock, match=why) as error:
        hostile(way=way)
    assert len(str(error.value)) < 10_000 and "\x1b" not in str(error.value)
    assert hostile(way="nothing").value == before
    assert not Path("/tmp/pickled").exists()


def test_what_it_prints_is_kept_in_no_place(hostile: sf.Block) -> None:
    assert attempt(hostile, "chatter") == "done"


# ---------------------------------------------------------------------------------------------------- its end
def test_a_process_that_breaks_its_pipes_leaves_or_hangs_is_ended(
    hostile: sf.Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    for way, why, seconds in (
        ("forge", "is invalid: it has a header of 4295.0 MB", "100"),
        ("close_pipes", "its process closed its pipes in Hostile, and was ended", "100"),
        ("loop", "took more than 1 s", "1"),
    ):
        pid, folder = hostile(way="nothing").value, Path(hostile(way="folder").value)
        assert folder.exists()
        monkeypatch.setenv("SFUMATO_ISOLATED_SECONDS", seconds)
        with pytest.raises(sf.BrokenBlock, match=why):
            hostile(way=way)
        monkeypatch.setenv("SFUMATO_ISOLATED_SECONDS", "100")
        assert ended(pid) and not folder.parent.exists()
    assert hostile(way="nothing").value != pid


@pytest.mark.skipif(sys.platform != "linux", reason="a process is told of its parent's end on Linux only")
def test_it_ends_with_its_supervisor(hostile: sf.Block) -> None:
    pid = hostile(way="nothing").value
    os.kill(int(about(pid)[1]), signal.SIGKILL)
    until = time.monotonic() + 10
    while not ended(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert ended(pid)


def about(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_inspect_lists_what_is_in_force(hostile: sf.Block, home: Path) -> None:
    found = sf.inspect(home / "repo")
    assert [made.what for made in found.isolation] == [*FORCE]
    assert "in a separate process (" in str(found)
    if landlock.version():
        assert "files            reads Python, its packages and the listed code" in str(found)
