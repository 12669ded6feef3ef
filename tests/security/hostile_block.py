"""A block that tries to leave its process, one way a call. It is the code of a repo in the tests beside it."""

import ctypes
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

import sfumato as sf


class Out(NamedTuple):
    text: str
    value: Any


class Hostile(sf.Block):
    """Do what a method of `Ways` does."""

    def __call__(self, way: str, program: int = 0, path: str = "") -> Out:
        try:
            text, value = "done", getattr(Ways(program, path), way)()
        except OSError as error:
            text, value = f"refused: {error.strerror}", None
        return Out(text, value)


libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Rude(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)

    def __reduce__(self) -> Any:
        return os.system, (  # pyright: ignore[reportDeprecated]
            "touch /tmp/pickled",
        )


class WaysOut:
    def __init__(self, program: int, path: str) -> None:
        self.program = program
        self.path = path

    # ---------------------------------------------------------------------------------------- honest
    def nothing(self) -> int:
        return os.getpid()

    def work(self) -> Any:
        Path("mine.txt").write_text("a")
        os.rename("mine.txt", "mine2.txt")
        left, right = socket.socketpair()  # asyncio has one
        left.send(b"a")
        made = []
        thread = threading.Thread(target=lambda: made.append(torch.ones(64, 64) @ torch.ones(64, 64)))
        thread.start()
        thread.join()
        picture = Image.new("RGB", (3, 2))
        picture.save("a.png")
        both = (Path("mine2.txt").read_text(), right.recv(1).decode())
        os.remove("a.png")
        return {"both": both, "sum": made[0], "picture": Image.open("a.png") if Path("a.png").exists() else picture}

    def folder(self) -> str:
        return os.getcwd()

    def environment(self) -> str:
        return " ".join(f"{name}={value}" for name, value in os.environ.items())

    # ---------------------------------------------------------------------------------------- the program
    def read(self) -> str:
        return Path(self.path).read_bytes()[:100].decode(errors="replace")

    def names(self) -> str:
        return " ".join(os.listdir(self.path))

    def write(self) -> int:
        return Path(self.path).write_text("changed")

    def append(self) -> int:
        with open(self.path, "a") as file:
            return file.write("changed")

    def cut(self) -> None:
        os.truncate(self.path, 0)

    def mode(self) -> None:
        os.chmod(self.path, 0o777)

    def times(self) -> None:
        os.utime(self.path, (0, 0))

    def remove(self) -> None:
        os.remove(self.path)

    def move(self) -> None:
        os.rename(self.path, "stolen")

    def link(self) -> str:
        os.symlink(self.path, "link")
        return Path("link").read_text()

    def hard_link(self) -> str:
        os.link(self.path, "hard")
        return Path("hard").read_text()

    def memory_of_program(self) -> bytes:
        with open(f"/proc/{self.program}/mem", "rb") as file:
            return file.read(1)

    def files_of_program(self) -> str:
        folder = f"/proc/{self.program}/fd"
        return " ".join(os.readlink(f"{folder}/{name}") for name in os.listdir(folder))

    def kill(self) -> None:
        os.kill(self.program, signal.SIGTERM)

    def kill_supervisor(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)

    def kill_all(self) -> None:
        os.kill(-1, signal.SIGTERM)

    def kill_thread(self) -> None:
        checked(libc.syscall(200, self.program, int(signal.SIGTERM)))  # tkill on x86-64

    def pidfd(self) -> int:
        return os.pidfd_open(self.program)

    def trace(self) -> None:
        checked(libc.ptrace(16, self.program, None, None))  # PTRACE_ATTACH

    def read_memory(self) -> None:
        buffer = ctypes.create_string_buffer(8)
        part = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
        checked(libc.process_vm_readv(self.program, part, 1, part, 1, 0))

    def slow_down(self) -> None:
        os.setpriority(os.PRIO_PROCESS, self.program, 19)

    def signal_by_file(self) -> None:
        import fcntl

        fcntl.fcntl(1, fcntl.F_SETOWN, self.program)

    # ---------------------------------------------------------------------------------------- more
    def open_files(self) -> int:
        found = 0
        for file in range(256):
            try:
                os.fstat(file)
                found += 1
            except OSError:
                continue
        return found

    def socket(self) -> None:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def local_socket(self) -> None:
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def raw_socket(self) -> None:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)

    def fork(self) -> None:
        while os.fork():
            pass

    def daemon(self) -> None:
        if not os.fork():
            os.setsid()
            if not os.fork():
                time.sleep(600)
            os._exit(0)

    def start(self) -> None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def spawn(self) -> None:
        os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})

    def shell(self) -> None:
        if os.system("true") != 0:  # pyright: ignore[reportDeprecated]
            raise PermissionError(1, "Operation not permitted")

    def execute(self) -> None:
        os.execv(sys.executable, [sys.executable, "-c", ""])

    def survive(self) -> None:
        checked(libc.prctl(1, 0))  # PR_SET_PDEATHSIG: do not end with the parent

    def leave(self) -> None:
        os.setsid()

    def more_memory(self) -> None:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError:  # what Python makes of it
            raise PermissionError(1, "Operation not permitted") from None

    def namespace(self) -> None:
        checked(libc.unshare(0x10000000))

    def terminal(self) -> None:
        os.open("/dev/tty", os.O_RDWR)

    def type_into_terminal(self) -> None:
        import fcntl

        fcntl.ioctl(1, 0x5412, b"x")  # TIOCSTI

    def memory_file(self) -> None:
        os.memfd_create("a")

    def shared_memory(self) -> None:
        checked(libc.shmget(0, 4096, 0o1600))

    def large_file(self) -> None:
        with open("large", "wb") as file:
            file.truncate(2**40)

    def many_files(self) -> None:
        kept = [os.dup(1) for _ in range(10_000)]
        assert not kept

    def memory(self) -> int:
        return torch.ones(2**36).numel()

    def sibling(self) -> Any:
        return importlib.import_module(".secret", __package__).KEY

    def sibling_by_path(self) -> str:
        return Path(__file__).with_name("notes.txt").read_text()

    def names_beside(self) -> str:
        return " ".join(sorted(os.listdir(Path(__file__).parent)))


class Ways(WaysOut):
    # ---------------------------------------------------------------------------------------- answers
    def expanded(self) -> torch.Tensor:
        return torch.zeros(1).expand(2**40)

    def many(self) -> Any:
        return [torch.zeros(1)] * 2000

    def nested(self) -> Any:
        value: Any = ()
        for _ in range(500):
            value = (value,)
        return value

    def long_text(self) -> str:
        return "a" * 10**7

    def an_object(self) -> Any:
        return Rude()

    def odd_dtype(self) -> torch.Tensor:
        return torch.zeros(2, dtype=torch.complex128)

    def chatter(self) -> str:
        data = b"\x1b[2J" + b"x" * 2**20
        for _ in range(64):
            os.write(1, data)
        return "done"

    def raise_rude(self) -> None:
        raise Rude

    def raise_named(self) -> None:
        raise type("\x1b[2J", (Exception,), {})("\x1b]0;title\x07" + "x" * 10**6)

    def raise_cycle(self) -> None:
        error = ValueError("a")
        error.__cause__ = error.__context__ = error
        raise error

    def work_on(self) -> int:
        threading.Thread(target=self.loop, daemon=True).start()
        return os.getpid()

    # ---------------------------------------------------------------------------------------- the end of the process
    def close_pipes(self) -> None:
        os.closerange(3, 4096)
        time.sleep(60)

    def forge(self) -> None:
        for file in range(3, 64):
            try:
                os.write(file, b"\xff" * 1000)
            except OSError:
                continue
        time.sleep(60)

    def loop(self) -> None:
        while True:
            pass
