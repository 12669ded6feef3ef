"""Names: found without importing what they stand for."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from sfumato.registry import Names, UnknownName, closest, did_you_mean, models, resolve, schedulers, table

MADE = "made_for_this_test"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{MADE}.py").write_text("class Fast:\n    pass\n\n\nclass Outer:\n    class Inner:\n        pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MADE, raising=False)
    return tmp_path


def test_a_name_is_imported_at_its_first_use(package: Path) -> None:
    names = Names("thing", {"Fast": f"{MADE}:Fast"})
    assert "Fast" in names and list(names) == ["Fast"] and MADE not in sys.modules
    assert names["Fast"].__name__ == "Fast" and names["Fast"] is names["Fast"]


def test_an_alias_stands_for_a_name(package: Path) -> None:
    names = Names("thing", {"Fast": f"{MADE}:Fast"}, aliases={"quick": "Fast"})
    assert names["quick"] is names["Fast"] and "quick" in names and len(names) == 1


def test_a_wrong_name_says_the_nearest() -> None:
    names = Names("guider", {"Perturbed": int, "Auto": str}, aliases={"pag": "Perturbed"})
    with pytest.raises(UnknownName) as caught:
        names["perturbd"]
    assert str(caught.value) == (
        "No guider is called 'perturbd'. Did you mean 'Perturbed'? There are: Perturbed, Auto, pag."
    )
    assert names.find("perturbd") is None and isinstance(caught.value, LookupError)


def test_the_last_one_added_stands_and_knows_its_name() -> None:
    names = Names("thing", {"a": int})
    names.add("a", str)
    assert names["a"] is str and names.name_of(str) == "a" and names.name_of(int) is None


def test_a_name_is_known_before_its_class_is_imported(package: Path) -> None:
    names = Names("thing", {"Fast": f"{MADE}:Fast"})
    cls = __import__(MADE).Fast
    assert names.name_of(cls) == "Fast"


def test_a_plugin_adds_names_but_does_not_replace_ours(package: Path) -> None:
    info = package / "made-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[sfumato.things]\nFast = {MADE}:Fast\nMine = {MADE}:Fast\n")
    importlib.invalidate_caches()
    names = Names("thing", {"Mine": int})
    assert names["Fast"].__name__ == "Fast" and names["Mine"] is int and set(names) == {"Mine", "Fast"}


def test_plugins_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []

    def entry_points(**group: str) -> tuple[()]:
        reads.append(group)
        return ()

    monkeypatch.setattr("sfumato.registry.names.entry_points", entry_points)
    names = Names("thing", {"a": int})
    assert [len(names), "b" in names, names.find("b")] == [1, False, None] and reads == [{"group": "sfumato.things"}]


def test_closest_ignores_case_and_gives_the_spelling_that_exists() -> None:
    assert closest("eulerdiscretescheduler", ["EulerDiscreteScheduler"]) == ["EulerDiscreteScheduler"]
    assert closest("xyz", ["EulerDiscreteScheduler"]) == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("WanPipeline", "FluxPipeline"),
        ("Flux2Pipeline", "FluxPipeline"),
        ("StableVideoDiffusionPipeline", "StableDiffusionPipeline"),
        ("WanTransformer3DModel", "FluxTransformer2DModel"),
        ("UNet3DConditionModel", "UNet2DConditionModel"),
        ("AutoencoderKLWan", "AutoencoderKL"),
        ("image_encoder", "text_encoder"),
    ],
)
def test_another_thing_of_the_same_kind_is_not_suggested(name: str, known: str) -> None:
    assert closest(name, [known]) == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("FluxPipline", "FluxPipeline"),
        ("UNet2DConditionalModel", "UNet2DConditionModel"),
        ("UNetConditionModel", "UNet2DConditionModel"),
        ("EulerScheduler", "EulerDiscreteScheduler"),
        ("propmt", "prompt"),
        ("inference_steps", "num_inference_steps"),
        ("text_encoder_3", "text_encoder_2"),
    ],
)
def test_a_misspelt_name_is_suggested(name: str, known: str) -> None:
    assert closest(name, [known]) == [known]


def test_did_you_mean_does_not_list_the_world() -> None:
    text = did_you_mean("n1", [f"n{i}" for i in range(100)])
    assert text.startswith("Did you mean 'n1'") and text.endswith("n23, ….")
    assert did_you_mean("a", []) == "There are none."


# ------------------------------------------------------------------------------------------------ resolve
def test_hints_of_diffusers_give_our_classes() -> None:
    assert resolve(["diffusers", "EulerDiscreteScheduler"]) is schedulers["EulerDiscreteScheduler"]
    assert resolve(("sfumato", "AutoencoderKL")) is models["AutoencoderKL"]


@pytest.mark.parametrize(
    "hint", [["antigravity", "Fly"], ["subprocess", "Popen"], ["os", "system"], ["builtins", "eval"]]
)
def test_other_libraries_are_refused_and_not_imported(hint: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr("sfumato.registry.tables.import_module", imported.append)
    with pytest.raises(UnknownName, match=f"the library {hint[0]!r}. Only 'diffusers', 'sfumato' and 'transformers'"):
        resolve(hint)
    assert not imported and "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name", ["__builtins__", "_LazyModule", "pipeline", "a.b", "NoSuchModel", "os", "VisionEncoderDecoderModel"]
)
def test_only_listed_classes_of_transformers_are_given(name: str) -> None:
    with pytest.raises(UnknownName, match="names a class that files may not name"):
        resolve(["transformers", name])


@pytest.mark.parametrize("name", ["AutoModel", "AutoTokenizer", "AutoModelForCausalLM", "AutoProcessor"])
def test_auto_classes_are_no_classes_of_files(name: str) -> None:
    with pytest.raises(UnknownName, match=r"An Auto class runs code that the repo names\. Write the class of this"):
        resolve(["transformers", name])


def test_an_unknown_class_of_diffusers_says_the_nearest() -> None:
    text = r"names the class 'AutoencoderKLL', which sfumato does not have\. Did you mean 'AutoencoderKL'"
    with pytest.raises(UnknownName, match=text):
        resolve(["diffusers", "AutoencoderKLL"])


def test_tables_by_slot() -> None:
    assert table("scheduler") is schedulers and table("nothing") is None


@pytest.mark.parametrize("names", [schedulers, models], ids=lambda n: n.kind)
def test_every_name_of_ours_can_be_imported(names: Names) -> None:
    for name, thing in names.items():
        assert thing.__name__ == name or not thing.__module__.startswith("sfumato.")  # other tests add theirs
    for alias, name in names.aliases.items():
        assert name in names, alias
