"""Single files of Flux and SD 3 that need nothing beside them: no config, no tokenizer, no network."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato as sf

from .support import fresh, held
from .whole_files import whole_file as whole_file

CALL: dict[str, Any] = {"num_inference_steps": 2, "seed": 0, "output_type": "pt", "max_sequence_length": 16}
SIZE = {"height": 32, "width": 32}
Whole = Callable[[str], Path]


def load(x: Path, **more: Any) -> sf.Graph:
    return sf.load(x, manager=fresh(), **more)


def picture(pipe: sf.Graph, **more: Any) -> Tensor:
    return pipe(**{"prompt": "a photo of a cat", **CALL, **SIZE, **more}).images


# --------------------------------------------------------------------------------------------------- T5's vocabulary
@pytest.mark.parametrize(("family", "name"), [("flux", "tokenizer_2"), ("sd3", "tokenizer_3")])
def test_a_file_is_drawn_with_by_the_vocabularies_that_come_with_us(
    family: str, name: str, whole_file: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = whole_file(family)
    monkeypatch.setattr(socket.socket, "connect", None)  # no network
    assert sf.inspect(file).missing == ()
    pipe = load(file)
    assert not pipe.check()
    assert held(pipe, name).encode("a photo of a cat") == [3, 9, 1202, 13, 3, 9, 1712, 1]
    cat, dog = (picture(pipe, **{name.replace("tokenizer", "prompt"): text}) for text in ("a cat", "a dog"))
    assert torch.isfinite(cat).all() and (cat - dog).abs().max() > 1e-4  # in what T5 reads alone
