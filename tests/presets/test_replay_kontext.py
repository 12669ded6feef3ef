"""A replay of Kontext, whose picture is drawn from another picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf

from .flux import flux_checkpoint as flux_checkpoint
from .support import picture

CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 7, "height": 16, "width": 16}


def test_a_picture_of_kontext_is_made_again_with_its_reference_picture(
    flux_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The record has the contents of that picture as a hash, so that another one is told apart."""
    model, file = flux_checkpoint("kontext"), tmp_path / "x.png"
    pipe = sf.load(model, "kontext")
    pipe(**CALL, image=picture(), auto_resize=False, max_area=32 * 32).images[0].save(file)
    with pytest.raises(sf.InputError, match=r"^image  is in the record by its contents only\. Pass it: "):
        sf.replay(file, folder=model.parent)
    again = sf.replay(file, folder=model.parent, image=picture())
    assert (again.verdict, again.differences, again.graph.preset) == ("identical", (), ("flux-kontext", "kontext"))
    other = sf.replay(file, folder=model.parent, image=picture(9))
    assert other.verdict != "identical" and any("image" in text for text in other.differences)
