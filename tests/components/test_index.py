"""Index files are read by the published rules and written in the published form."""

import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.components.loading.index import CLASSIC, MODULAR, Index, read_index, write_modular_index
from sfumato.components.spec import ComponentSpec
from sfumato.graph.errors import LoadError, SaveError
from sfumato.registry import UnknownName

diffusers: Any = import_module("diffusers")  # Any: its types refuse what its own files hold
transformers: Any = import_module("transformers")

EMOJI = Path(__file__).parents[2] / "presets/embedded/emoji"
FORMATS = Path(__file__).parents[1] / "files/formats"
MakeIndex = Callable[..., Path]
SPEC = {"pretrained_model_name_or_path": "org/repo", "revision": None, "subfolder": "unet", "variant": None}
UNET = {**SPEC, "type_hint": ["diffusers", "UNet2DConditionModel"]}


def hints(index: Index) -> dict[str, tuple[str, str] | None]:
    return {name: spec.type_hint if spec else None for name, spec in index.components.items()}


def test_the_emoji_folder_is_read_as_it_lies_there(emoji: Path) -> None:
    index = read_index(emoji)
    assert (index.class_name, index.blocks_class_name) == ("StableDiffusionPipeline", None)
    assert index.config == {"requires_safety_checker": False}
    assert index.path == emoji
    assert sorted(index.loadable) == ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]
    assert [name for name, spec in index.components.items() if spec is None] == [
        "feature_extractor",
        "image_encoder",
        "safety_checker",
    ]
    unet = index.spec("unet")
    assert (unet.folder, unet.type_hint) == (emoji / "unet", ("diffusers", "UNet2DConditionModel"))
    index.check()


def test_paths_do_not_depend_on_the_working_folder(emoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(emoji.parent)
    assert read_index("emoji").spec("vae") == read_index(f"{emoji}{os.sep}").spec("vae")


@pytest.mark.parametrize("file", ["sd15_model_index.json", "sdxl_model_index.json"])
def test_published_classic_files_are_read(an_index: MakeIndex, file: str) -> None:
    published = json.loads((FORMATS / file).read_text())
    index = read_index(an_index(published, CLASSIC))
    pairs = {k: v for k, v in published.items() if isinstance(v, list)}
    assert hints(index) == {k: None if v == [None, None] else tuple(v) for k, v in pairs.items()}
    assert index.config == {k: v for k, v in published.items() if not k.startswith("_") and k not in pairs}
    assert index.class_name == published["_class_name"]


@pytest.mark.parametrize("file", ["sdxl_modular_model_index.json", "modular_model_index.custom_block.json"])
def test_published_modular_files_survive_reading_and_writing_to_the_letter(
    an_index: MakeIndex, tmp_path: Path, file: str
) -> None:
    published = json.loads((FORMATS / file).read_text())
    index = read_index(an_index(published))
    written = write_modular_index(
        tmp_path / "new", index.components, index.class_name or "", index.blocks_class_name, index.config
    )
    assert written.name == MODULAR
    assert json.loads(written.read_text()) == published
    assert written.read_text() == (FORMATS / file).read_text().rstrip() + "\n"


def test_only_the_third_element_of_a_modular_entry_counts(an_index: MakeIndex) -> None:
    index = read_index(an_index({"unet": ["transformers", "CLIPTextModel", UNET], "vae": [None, None, UNET]}))
    assert hints(index) == {"unet": ("diffusers", "UNet2DConditionModel"), "vae": ("diffusers", "UNet2DConditionModel")}
    assert index.spec("vae").load_id == "org/repo|unet|null|null"


def test_the_legacy_key_repo_stands_for_the_path(an_index: MakeIndex) -> None:
    legacy = {k: v for k, v in UNET.items() if k != "pretrained_model_name_or_path"} | {"repo": "old/repo"}
    index = read_index(an_index({"unet": [None, None, legacy]}))
    assert index.spec("unet").pretrained_model_name_or_path == "old/repo"


def test_classic_entries_in_a_modular_file_are_read_and_keys_of_later_versions_are_not(an_index: MakeIndex) -> None:
    index = read_index(an_index({"vae": ["diffusers", "AutoencoderKL"], "unet": [None, None, {**UNET, "shards": 4}]}))
    assert hints(index) == {"vae": ("diffusers", "AutoencoderKL"), "unet": ("diffusers", "UNet2DConditionModel")}


def test_plain_keys_of_any_kind_are_config(an_index: MakeIndex) -> None:
    plain = {"a": True, "b": None, "sizes": [512, 768, 1024], "c": {"d": [1, 2]}, "pair": [1, 2]}
    assert read_index(an_index(plain)).config == plain
    assert read_index(an_index(plain, CLASSIC), CLASSIC).config == plain


def test_a_component_without_a_path_keeps_its_class_but_cannot_be_asked_for(an_index: MakeIndex) -> None:
    index = read_index(an_index({"unet": [None, None, {**UNET, "pretrained_model_name_or_path": None}]}))
    assert hints(index) == {"unet": ("diffusers", "UNet2DConditionModel")}
    assert index.loadable == {}
    with pytest.raises(LoadError, match="unet is null, so the folder has none"):
        index.spec("unet")
    with pytest.raises(UnknownName, match=r"no component 'unett'\. Did you mean 'unet'"):
        index.spec("unett")


def test_files_that_lie_in_the_folder_are_taken_from_there_wherever_the_entry_points(emoji: Path) -> None:
    there = {**UNET, "revision": "abc"}
    elsewhere = {**UNET, "subfolder": "controlnet"}
    text = json.dumps({"unet": [None, None, there], "controlnet": [None, None, elsewhere]})
    (emoji / MODULAR).write_text(text)
    moved = emoji.rename(emoji.parent / "moved")
    index = read_index(moved)
    assert index.spec("unet").folder == moved / "unet"
    assert index.spec("unet").revision is None
    assert index.spec("controlnet").pretrained_model_name_or_path == "org/repo"


def test_a_config_without_weights_is_no_local_copy(emoji: Path) -> None:
    (emoji / MODULAR).write_text(json.dumps({"unet": [None, None, UNET]}))
    (emoji / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert read_index(emoji).spec("unet").pretrained_model_name_or_path == "org/repo"


def test_the_modular_file_is_read_where_both_are_there_unless_asked_otherwise(emoji: Path) -> None:
    (emoji / MODULAR).write_text(json.dumps({"_class_name": "M", "unet": [None, None, UNET]}))
    assert (read_index(emoji).class_name, sorted(read_index(emoji).components)) == ("M", ["unet"])
    assert read_index(emoji, CLASSIC).class_name == "StableDiffusionPipeline"


def test_all_problems_of_a_file_are_told_at_once(an_index: MakeIndex) -> None:
    folder = an_index(
        {
            "unet": [None, None, {**UNET, "subfolder": "../../etc"}],
            "vae": [None, None, {**UNET, "type_hint": ["diffusers"]}],
            "text_encoder": [None, None, {**UNET, "variant": 16}],
            "tokenizer": ["transformers", "CLIPTokenizer", "tokenizer"],
            "scheduler": [None, None, {**UNET, "subfolder": "/scheduler"}],
            "good": [None, None, UNET],
        }
    )
    with pytest.raises(LoadError) as caught:
        read_index(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder / MODULAR}: (5 problems)\n")
    assert "unet: subfolder: needs a name inside the folder such as 'unet'. Got '../../etc', which leads" in text
    assert "vae: type_hint" in text
    assert "text_encoder: variant: Input should be a valid string. Got 16." in text
    assert "tokenizer: needs a loading spec (an object) as the third element, got 'tokenizer'." in text
    assert "scheduler: subfolder: needs a name inside the folder such as 'unet'. Got '/scheduler'" in text
    assert "good" not in text


def test_a_half_null_classic_entry_is_told(an_index: MakeIndex) -> None:
    with pytest.raises(LoadError, match=r"vae: needs .library, class. or .null, null., got .'diffusers', None."):
        read_index(an_index({"vae": ["diffusers", None]}, CLASSIC))


def test_libraries_and_classes_that_nobody_knows_are_told_when_they_are_wanted(an_index: MakeIndex) -> None:
    """Not when read: the published Stable Diffusion 1.5 names a class of a pipeline that few ever load."""
    folder = an_index(
        {
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "unet": ["diffusers", "UNet2DConditionalModel"],
            "image_encoder": ["transformers", "import_module"],
            "vae": ["antigravity", "Fly"],
            "scheduler": ["diffusers", "DDIMScheduler"],
        },
        CLASSIC,
    )
    index = read_index(folder)
    index.check("scheduler")
    with pytest.raises(LoadError) as caught:
        index.check()
    text = str(caught.value)
    assert text.startswith(f"{folder}: (4 problems)\n")
    assert "safety_checker: StableDiffusionSafetyChecker" in text
    assert "names the library 'stable_diffusion'" in text
    assert "Did you mean 'UNet2DConditionModel'?" in text
    assert "The hint ['transformers', 'import_module'] names a class that files may not name." in text
    assert "names the library 'antigravity'" in text


def test_folders_and_files_that_cannot_be_read_say_what_is_there(an_index: MakeIndex, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"modular_model_index\.json: is not JSON at line 1, column 9: "):
        read_index(an_index('{"unet":'))
    with pytest.raises(LoadError, match="needs a JSON object, got list"):
        read_index(an_index("[]"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(LoadError, match=r"no modular_model_index\.json and no model_index\.json.*has: notes\.txt"):
        read_index(tmp_path / "empty")
    with pytest.raises(LoadError, match=r"nowhere: there is no such folder"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(LoadError, match="this is a file, and a folder was wanted"):
        read_index(tmp_path / "empty" / "notes.txt")


def test_what_the_published_form_has_no_place_for_is_refused(tmp_path: Path) -> None:
    inline = ComponentSpec(type_hint=("diffusers", "DDIMScheduler"), config={"beta_start": 0.1})
    with pytest.raises(
        LoadError, match=r"\(3 problems\)\n  _a: (.|\n)*scheduler: has its config inline(.|\n)*unet: both"
    ):
        write_modular_index(tmp_path, {"scheduler": inline, "unet": None}, config={"unet": 1, "_a": 2})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_modular_index(tmp_path, {}, "Before")

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SaveError, match="No space"):
        write_modular_index(tmp_path, {}, "After")
    assert [p.name for p in tmp_path.iterdir()] == [MODULAR]
    assert read_index(tmp_path).class_name == "Before"


def a_tiny_pipeline() -> Any:
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=2048,
        bos_token_id=2046, eos_token_id=2047, pad_token_id=2047,
    )  # fmt: skip
    small: dict[str, Any] = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    unet = diffusers.UNet2DConditionModel(
        **small, cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2,
    )  # fmt: skip
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**small, **levels),
        text_encoder=transformers.CLIPTextModel(config),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def test_a_folder_saved_by_diffusers_is_read_and_what_we_write_beside_it_diffusers_reads(tmp_path: Path) -> None:
    a_tiny_pipeline().save_pretrained(tmp_path)
    index = read_index(tmp_path)
    assert sorted(index.loadable) == ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]
    write_modular_index(tmp_path, index.components, "StableDiffusionXLModularPipeline", "StableDiffusionXLAutoBlocks")
    theirs = diffusers.ModularPipeline.from_pretrained(str(tmp_path))
    for name, spec in index.loadable.items():
        assert theirs.get_component_spec(name).load_id == spec.load_id
    again = read_index(tmp_path)
    assert again.components == index.components
    assert (again.class_name, again.blocks_class_name) == (
        "StableDiffusionXLModularPipeline",
        "StableDiffusionXLAutoBlocks",
    )


def test_a_modular_folder_saved_by_diffusers_is_read_and_written_again_to_the_letter(tmp_path: Path) -> None:
    pipeline = diffusers.StableDiffusionXLAutoBlocks().init_pipeline()
    pipeline.update_components(unet=a_tiny_pipeline().unet, scheduler=diffusers.EulerDiscreteScheduler())
    pipeline.save_pretrained(str(tmp_path / "mod"), overwrite_modular_index=True)
    index = read_index(tmp_path / "mod")
    assert index.class_name == "StableDiffusionXLModularPipeline"
    assert sorted(index.loadable) == ["scheduler", "unet"]
    assert index.spec("unet").folder == tmp_path / "mod" / "unet"
    saved = json.loads((tmp_path / "mod" / MODULAR).read_text())
    write_modular_index(tmp_path / "new", index.components, index.class_name, index.blocks_class_name, index.config)
    assert json.loads((tmp_path / "new" / MODULAR).read_text()) == saved
