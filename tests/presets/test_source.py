"""What a user names is decided once, for `sf.load`, `sf.load_component` and `sf.inspect` alike."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato.presets.names import EMBEDDED
from sfumato.presets.source import (
    CodeBlocks,
    ComponentFolder,
    EmbeddedPreset,
    FamilyName,
    GraphFile,
    PipelineFolder,
    SavedGraph,
    SingleFile,
    UnknownFolder,
    locate,
)


def kind(x: str | Path, **more: Any) -> type:
    return type(locate(x, **more))


def test_names_of_presets_come_before_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("sd") == FamilyName("sd")
    assert kind("emoji") is EmbeddedPreset
    assert kind("emoji", subfolder="unet") is ComponentFolder
    (tmp_path / "sd").mkdir()
    assert kind("sd") is UnknownFolder  # a folder of that name is what the user has made


def test_a_path_inside_an_included_model_is_its_file_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind("emoji/unet") is ComponentFolder
    found = locate("emoji/unet/diffusion_pytorch_model.safetensors")
    assert isinstance(found, SingleFile) and found.file.is_relative_to(EMBEDDED / "emoji")
    for wrong in ("emoji/unett", "emoji/../../names.py", "emoji/no.safetensors"):
        with pytest.raises(sf.LoadError):
            locate(wrong, access=sf.Access(local_files_only=True))
    (tmp_path / "emoji" / "unet").mkdir(parents=True)
    assert kind("emoji/unet") is UnknownFolder  # a folder of that name is what the user has made


def test_folders_are_told_apart_by_the_files_that_they_have(tmp_path: Path, a_folder: Path) -> None:
    assert kind(a_folder) is PipelineFolder
    assert kind(a_folder / "unet") is kind(a_folder, subfolder="unet") is ComponentFolder
    assert kind(tmp_path) is UnknownFolder
    (tmp_path / "modular_config.json").write_text("{}")
    assert kind(tmp_path) is CodeBlocks
    (tmp_path / "graph.json").write_text("{}")
    assert kind(tmp_path) is SavedGraph
    assert locate(tmp_path / "graph.json") == GraphFile(tmp_path / "graph.json")
    weights = next((a_folder / "unet").glob("*.safetensors"))
    assert locate(weights) == SingleFile(weights)


def test_a_saved_pipeline_is_a_graph_that_has_an_index(tmp_path: Path) -> None:
    sf.load("emoji").save(tmp_path / "graph")
    sf.load("emoji").save_pretrained(tmp_path / "whole")
    graph, whole = locate(tmp_path / "graph"), locate(tmp_path / "whole")
    assert isinstance(graph, SavedGraph) and not graph.has_index
    assert isinstance(whole, SavedGraph) and whole.has_index


def test_a_component_is_taken_from_a_saved_graph(tmp_path: Path) -> None:
    sf.load("emoji").save(tmp_path)
    assert type(sf.load_component(tmp_path, "AutoencoderKL")) is sf.models.AutoencoderKL
    with pytest.raises(sf.LoadError, match=r"graph\.json: has no ControlNetModel\. It has: .*vae \(AutoencoderKL\)"):
        sf.load_component(tmp_path, "ControlNetModel")


def test_a_family_has_no_components() -> None:
    with pytest.raises(sf.LoadError, match=r"sd: this is a family, which has no components\. Pass a checkpoint"):
        sf.load_component("sd", "AutoencoderKL")


@pytest.mark.parametrize("read", [sf.load, sf.inspect, partial(sf.load_component, class_name="AutoencoderKL")])
def test_access_is_passed_whole_or_by_its_fields(a_folder: Path, read: Any) -> None:
    read(a_folder, access=sf.Access(local_files_only=True))
    read(a_folder, local_files_only=True, force_download=True)
    with pytest.raises(sf.ConfigError, match=r"access= and token=, allow_pickle= were both passed\. Put the setting"):
        read(a_folder, access=sf.Access(), token="hf_x", allow_pickle=True)


def test_access_may_be_wider_at_a_second_try(tmp_path: Path, a_folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = next((a_folder / "vae").glob("*.safetensors"))
    (tmp_path / "config.json").write_text((a_folder / "vae" / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    torch.save(load_file(weights), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(sf.LoadError, match="pickles"):
        sf.load_component(tmp_path)
    assert type(sf.load_component(tmp_path, access=sf.Access(allow_pickle=True))) is sf.models.AutoencoderKL
