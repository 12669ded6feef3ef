"""Two processes of a test, forked so that they need not import torch again."""

import gc
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import distributed


def in_two_processes(work: Callable[[int], None]) -> None:
    """Call a function with the number of the process in each of two, which accelerate connects with gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = list[int]()
    for rank in range(2):
        child = os.fork()
        if not child:
            where = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {name: str(value) for name, value in where.items()} | {"ACCELERATE_USE_CPU": "true"}
            try:
                work(rank)
                gc.collect()  # the end of a DDP module waits for a thread of gloo, which may wait for Python's lock
                distributed.destroy_process_group()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def shard_on_cpu(monkeypatch: pytest.MonkeyPatch, block: str = "") -> None:
    """Set what `accelerate launch` sets for FSDP. Accelerate starts it on accelerators alone; here it does on the CPU.

    block: the class whose modules are gathered one by one.
    """
    config = {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_TRANSFORMER_CLS_TO_WRAP": block,
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP" if block else "NO_WRAP",
    }  # fmt: skip
    os.environ |= config
    made = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **named: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    monkeypatch.setattr(AcceleratorState, "__init__", init)
