"""Replays of pictures that were drawn with embeddings."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import sfumato as sf

CALL: dict[str, Any] = {"prompt": "a fox, <soft> style", "num_inference_steps": 2, "seed": 7}


@pytest.mark.parametrize("place", ["emoji", "file", "file of an adapter"])
def test_embeddings_are_found_again(tmp_path: Path, place: str) -> None:
    shipped: Any = sf.load_embedding("emoji/adapters/soft.safetensors")
    (vectors,) = shipped.vectors
    file = tmp_path / "soft.safetensors"
    adapter: Any = shipped
    if place == "file":
        save_file({"emb_params": vectors.inputs}, file)
        adapter = sf.load_embedding(file, token="<soft>")
    elif place == "file of an adapter":
        style = sf.load_adapter("emoji/adapters/two-tone.safetensors").content.file
        assert style is not None
        save_file({**load_file(style), "bundle_emb.<soft>.clip_l": vectors.inputs}, file)
        adapter = sf.load_adapter(file)
    sf.load("emoji")(**CALL, adapters=[adapter]).images[0].save(tmp_path / "x.png")
    again = sf.replay(tmp_path / "x.png", folder=tmp_path)
    assert (again.verdict, again.differences) == ("identical", ())
    if place == "file":
        save_file({"emb_params": 2 * vectors.inputs}, file)
        changed = sf.replay(tmp_path / "x.png", folder=tmp_path)
        assert changed.differences == ("embedding soft: its vectors are not the recorded ones",)
