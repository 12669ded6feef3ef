"""`guider_config.json` read and written as published, and guiders in graph files."""

import json
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato import Block, Graph
from sfumato.blocks.guiders.cfg import ClassifierFreeGuidance
from sfumato.blocks.guiders.schedule import GuidanceSchedule

from ..presets.custom import PositiveOnly
from .support import ALL

FILES = Path(__file__).parent / "files"
STACK = "mid_block.attentions.0.transformer_blocks"
LAYERS = {"indices": [0], "fqn": STACK, "skip_attention_scores": False, "skip_ff": False, "dropout": 0.5}
WEAK = sf.guiders.LayerSkipConfig(indices=(0,), fqn=STACK, skip_ff=False, dropout=0.5)

EXAMPLES: list[Block] = [
    *(getattr(sf.guiders, name)() for name in (*ALL, "NoGuidance", "GuidanceSchedule")),
    sf.guiders.ClassifierFreeGuidance(guidance_scale=(1.5, 3.0), stop=0.5),
    sf.guiders.PerturbedAttentionGuidance(perturbed_guidance_layers=(2, "up_blocks.1")),
    sf.guiders.PerturbedAttentionGuidance(perturbed_guidance_layers="mid"),
    sf.guiders.SkipLayerGuidance(skip_layer_config=(WEAK, WEAK)),
    sf.guiders.AutoGuidance(auto_guidance_config=WEAK),
    sf.guiders.AutoGuidance(auto_guidance_layers=3, dropout=0.1),
    sf.guiders.SmoothedEnergyGuidance(
        seg_guidance_config=sf.guiders.SmoothedEnergyGuidanceConfig(indices=(0, 1)), seg_blur_sigma=2.0
    ),
    sf.guiders.FrequencyDecoupledGuidance(guidance_scales=(9.0, 4.0, 2.0), start=(0.0, 0.1, 0.2)),
    sf.guiders.AdaptiveProjectedGuidance(adaptive_projected_guidance_norm_dim=(1, 2)),
    sf.guiders.GuidanceSchedule(
        parts=((0.0, sf.guiders.SkipLayerGuidance(skip_layer_config=WEAK)), (0.5, sf.guiders.NoGuidance()))
    ),
]


@pytest.mark.parametrize("file", sorted(FILES.glob("*.json")), ids=lambda file: file.name)
def test_published_files_read_and_come_back(file: Path, tmp_path: Path) -> None:
    config = json.loads(file.read_text())
    (tmp_path / "guider_config.json").write_text(file.read_text())
    guider = sf.guiders.from_pretrained(tmp_path)
    assert type(guider).__name__ == config["_class_name"]
    del config["_diffusers_version"]
    sf.guiders.save_pretrained(guider, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "guider_config.json").read_text()) == config
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["guider_config.json"]


@pytest.mark.parametrize("guider", EXAMPLES)
def test_a_guider_survives_its_file(guider: Any, tmp_path: Path) -> None:
    guider.save_pretrained(tmp_path)
    assert type(guider).from_pretrained(tmp_path) == guider
    assert sf.guiders.from_pretrained(tmp_path.parent, subfolder=tmp_path.name) == guider
    assert type(guider).from_config(guider.to_config()) == guider
    hash(guider)


@pytest.mark.parametrize("guider", EXAMPLES)
def test_a_guider_survives_its_graphs_file(guider: Block, tmp_path: Path) -> None:
    graph = sf.load("emoji").replace("denoise.guider", guider)
    graph.save(tmp_path)
    assert Graph.load(tmp_path) == graph


TOLD: dict[str, dict[str, Any]] = {
    "AutoGuidance": {"auto_guidance_config": LAYERS},
    "PerturbedAttentionGuidance": {
        "perturbed_guidance_config": [{"indices": [3], "skip_attention": False, "skip_attention_scores": True}]
    },
    "SkipLayerGuidance": {"skip_layer_guidance_layers": [7, 8, 9]},
    "SmoothedEnergyGuidance": {"seg_guidance_layers": [7]},
}


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("MagnitudeAwareGuidance", "FrequencyDecoupledGuidance")])
def test_the_reference_reads_what_ours_write_and_the_other_way(diffusers: Any, name: str, tmp_path: Path) -> None:
    theirs = getattr(diffusers, name)(start=0.2, **TOLD.get(name, {}))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(sf.guiders, name).from_pretrained(tmp_path / "theirs")
    assert ours.start == 0.2
    ours.save_pretrained(tmp_path / "ours")
    back = type(theirs).from_pretrained(tmp_path / "ours")
    published = json.loads((tmp_path / "theirs" / "guider_config.json").read_text())
    again = json.loads((tmp_path / "ours" / "guider_config.json").read_text())
    assert again.keys() == published.keys() - {"_diffusers_version"}
    assert {k: v for k, v in again.items() if "config" not in k} == {
        k: published[k] for k in again if "config" not in k
    }
    assert [k for k in theirs.config if k[0] != "_" and k not in back.config] == []


@pytest.mark.parametrize("name", ALL)
def test_defaults_are_the_published_ones(diffusers: Any, name: str) -> None:
    import inspect
    from importlib import import_module

    if name == "MagnitudeAwareGuidance":
        published = import_module("diffusers.guiders.magnitude_aware_guidance").MagnitudeAwareGuidance
    else:
        published = getattr(diffusers, name)
    expected = {p.name: p.default for p in list(inspect.signature(published.__init__).parameters.values())[1:]}
    ours = {key: value for key, value in getattr(sf.guiders, name)().to_config().items() if key != "_class_name"}
    assert ours == expected


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"_class_name": "SkipLayerGuidance", "skip_layer_config": {"index": [0]}}, "LayerSkipConfig has no 'index'"),
        ({"_class_name": "SkipLayerGuidance", "skip_layer_config": {}}, "LayerSkipConfig needs 'indices'"),
        (
            {
                "_class_name": "SkipLayerGuidance",
                "skip_layer_config": {"indices": [0]},
                "skip_layer_guidance_layers": 1,
            },
            "needs skip_layer_guidance_layers or skip_layer_config, got both. Leave one out.",
        ),
        ({"_class_name": "AutoGuidance", "dropout": 1.5}, "AutoGuidance.dropout .*got 1.5"),
        (
            {"_class_name": "AutoGuidance", "auto_guidance_config": {"indices": [0], "dropout": 2}},
            "dropout=2 is not a fraction. Pass a number from 0 to 1.",
        ),
        (
            {"_class_name": "AutoGuidance", "auto_guidance_config": {"indices": 0, "skip_attention_scores": True}},
            "needs skip_attention=False and dropout=1.0. Set both, or leave it out.",
        ),
        (
            {
                "_class_name": "SmoothedEnergyGuidance",
                "seg_guidance_config": {"indices": [0], "_query_proj_identifiers": ["q"]},
            },
            r"_query_proj_identifiers must be \[\'to_q\'\]. Leave it out.",
        ),
        (
            {"_class_name": "FrequencyDecoupledGuidance", "start": [0.1]},
            "start has 1 numbers for the 2 octaves of guidance_scales. Pass one, or one for each.",
        ),
        ({"_class_name": "FrequencyDecoupledGuidance", "guidance_scales": []}, "guidance_scales is empty"),
        ({"_class_name": "ClassifierFreeGuidance", "guidance_scal": 1.0}, "Did you mean 'guidance_scale'"),
        ({}, "needs '_class_name', got None. Pass the name of a guider."),
    ],
)
def test_configs_that_do_not_fit_are_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(sf.ConfigError, match=told):
        sf.guiders.from_config(config)


def test_a_name_that_is_no_guider_is_refused_with_the_nearest() -> None:
    with pytest.raises(sf.UnknownName, match="Did you mean 'SkipLayerGuidance'"):
        sf.guiders.from_config({"_class_name": "SkipLayersGuidance"})


def test_folders_without_the_guider_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sf.LoadError, match=r"has no guider_config\.json"):
        sf.guiders.from_pretrained(tmp_path)
    (tmp_path / "guider_config.json").write_text("[")
    with pytest.raises(sf.LoadError, match="is not JSON at line 1"):
        sf.guiders.from_pretrained(tmp_path)
    (tmp_path / "guider_config.json").write_text("[]")
    with pytest.raises(sf.LoadError, match="needs a JSON object, got list"):
        sf.guiders.from_pretrained(tmp_path)
    sf.guiders.NoGuidance().save_pretrained(tmp_path)
    with pytest.raises(
        sf.LoadError, match=r"holds a NoGuidance, not a ClassifierFreeGuidance\. Read it with guiders\.NoGuidance"
    ):
        ClassifierFreeGuidance.from_pretrained(tmp_path)


def test_a_guider_of_ones_own_is_kept_in_a_schedule_in_a_graph(tmp_path: Path) -> None:
    schedule = GuidanceSchedule(parts=((0.0, ClassifierFreeGuidance()), (0.5, PositiveOnly())))
    graph = sf.load("emoji").replace("denoise.guider", schedule)
    graph.save(tmp_path)
    assert Graph.load(tmp_path) == graph
