"""Mapped weights take memory once: the pages of what was cast or moved are given back."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sfumato.components.storage.building import on_meta
from sfumato.components.storage.tensors import SafetensorFiles
from sfumato.components.storage.weights import load_weights

COUNT, WIDTH = 8, 2048  # the kernel counts pages to about 1 MB
ONE = WIDTH * WIDTH * 2  # bytes of a tensor in the file, in float16

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and only Linux gives pages back at once")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({f"{i}.weight": torch.full((WIDTH, WIDTH), float(i)).half() for i in range(COUNT)}, path)
    return path


def mapped() -> int:
    """Bytes of mapped files that are in memory; torch's own code is one of them, and comes as it is used."""
    assert nn.Parameter(torch.zeros(WIDTH, WIDTH).half(), requires_grad=False).float().mean() == 0
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


def test_pages_of_a_tensor_go_with_it_and_not_before(file: Path) -> None:
    files = SafetensorFiles([file])
    before = mapped()
    held = nn.Parameter(files.read("1.weight").reshape(-1), requires_grad=False)  # its storage is that of the file
    assert held.float().mean() == 1
    assert mapped() - before > 0.9 * ONE
    del held
    assert mapped() - before < 0.3 * ONE


def test_a_model_that_is_cast_keeps_nothing_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_meta():
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(COUNT)))
    seen: list[int] = []
    read = SafetensorFiles.read

    def watched(self: SafetensorFiles, name: str) -> torch.Tensor:
        seen.append(mapped())
        return read(self, name)

    before = mapped()
    monkeypatch.setattr(SafetensorFiles, "read", watched)
    load_weights(model, [file], dtype=torch.float32)
    assert len(seen) == COUNT
    assert max(*seen, mapped()) - before < 2 * ONE  # all would be 8: one that is read, and what a fault brings along
    assert [float(weight.mean()) for weight in model.parameters()] == list(range(COUNT))


def test_what_was_written_to_mapped_weights_outlives_another_reader(file: Path) -> None:
    files = SafetensorFiles([file])
    first, mine = files.read("1.weight"), files.read("1.weight")
    mine.fill_(7)
    del first
    assert (mine == 7).all()
