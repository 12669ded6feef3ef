"""`sf.load` picks the preset by the index, says which, and names everything that is wrong at once."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato.presets.family import Family

Reconfigure = Callable[..., None]


def test_the_preset_is_picked_by_the_index_and_told(a_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sfumato"):
        pipe = sf.load(a_folder, "inpaint")
    assert pipe.preset == ("sd", "inpaint")
    assert caplog.messages == [f"{a_folder}: sd/inpaint, by its pipeline class StableDiffusionPipeline"]


@pytest.mark.parametrize(
    "keys",
    [
        {"_class_name": "StableDiffusionModularPipeline"},
        {"_class_name": "ModularPipeline", "_blocks_class_name": "StableDiffusionAutoBlocks"},
        {"_blocks_class_name": "StableDiffusionPipeline"},
    ],
)
def test_a_modular_index_is_known_by_its_pipeline_or_its_blocks(a_folder: Path, keys: dict[str, str]) -> None:
    classic = json.loads((a_folder / "model_index.json").read_text())
    entries = {
        name: [*value, {"type_hint": value, "subfolder": name, "pretrained_model_name_or_path": "an/other"}]
        for name, value in classic.items() if isinstance(value, list)
    }  # fmt: skip
    (a_folder / "modular_model_index.json").write_text(json.dumps({**entries, **keys}))
    assert sf.load(a_folder).preset == ("sd", "text2image")


def test_plain_keys_of_the_index_reach_the_family(
    a_folder: Path, reconfigure: Reconfigure, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconfigure(a_folder / "model_index.json", is_distilled=False)
    given: dict[str, Any] = {}
    plain = Family.make

    def make(self: Family, task: str, components: Any, **more: Any) -> Any:
        given.update(more)
        return plain(self, task, components, **more)

    monkeypatch.setattr(Family, "make", make)
    sf.load(a_folder)
    assert given == {"requires_safety_checker": False, "is_distilled": False}


def test_all_parts_that_are_wrong_or_missing_are_named_at_once(a_folder: Path, reconfigure: Reconfigure) -> None:
    (a_folder / "unet" / "config.json").unlink()
    (a_folder / "tokenizer").rename(a_folder / "words")
    reconfigure(a_folder / "model_index.json", text_encoder=["transformers", "CLIPTextModell"], vae=[None, None])
    with pytest.raises(sf.LoadError) as caught:
        sf.load(a_folder)
    text = str(caught.value)
    assert text.startswith(f"{a_folder}: (")
    for said in ("vae: the index has none", "unet: ", "tokenizer: ", "text_encoder: "):
        assert f"\n  {said}" in text
    assert "CLIPTextModell" in text and "scheduler" not in text.split("\n", 1)[1].split(":")[0]


def test_an_unknown_pipeline_says_what_is_near(a_folder: Path, reconfigure: Reconfigure) -> None:
    reconfigure(a_folder / "model_index.json", _class_name="StableDiffusionPipelines")
    with pytest.raises(sf.LoadError, match="Did you mean 'StableDiffusionPipeline'"):
        sf.load(a_folder)
    assert sf.load(a_folder, graph=sf.load("sd")).bindings.keys() >= {"unet", "vae"}
    assert sf.presets()[0] == "emoji"


def test_a_graph_is_made_once_for_equal_settings(emoji: sf.Graph) -> None:
    """Making one takes longer than reading an index. Other settings make another one."""
    again, other = sf.load("emoji"), sf.load("sd")
    assert again["noise"] is emoji["noise"] and other["noise"] != emoji["noise"]
    assert again.task("inpaint")["begin"] is emoji.task("inpaint")["begin"]
