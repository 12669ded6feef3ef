"""Records in picture files, and replays: each family round, and each changed part named."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sfumato as sf
from sfumato import Graph, GraphFileError, InputError, LoadError, Picture, PictureError, Replay
from sfumato.components.picture_texts import texts_of
from sfumato.components.types import Images

from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import EMBEDDED

CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 7}
SMALL: dict[str, Any] = {**CALL, "height": 16, "width": 16}


@pytest.fixture(scope="module")
def emoji() -> Graph:
    return sf.load("emoji")


@pytest.fixture(scope="module")
def saved(emoji: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the embedded model."""
    file = tmp_path_factory.mktemp("pictures") / "apple.png"
    emoji(**CALL).images[0].save(file)
    return file


def record_of(file: Path) -> dict[str, Any]:
    with Image.open(file) as picture:
        picture.load()
        return json.loads(texts_of(picture)["sfumato"])


def rewritten(file: Path, change: Callable[[dict[str, Any]], object], to: Path) -> Path:
    """The picture with a changed record, as somebody else may write it."""
    from PIL.PngImagePlugin import PngInfo

    record, info = record_of(file), PngInfo()
    change(record)
    info.add_text("sfumato", json.dumps(record))
    with Image.open(file) as picture:
        picture.save(to, pnginfo=info)
    return to


# ------------------------------------------------------------------------------------------------ round trips
@pytest.mark.parametrize(
    ("fixture", "kind"),
    [("checkpoint", "sd"), ("xl_checkpoint", "base"), ("flux_checkpoint", "dev"), ("sd3_checkpoint", "3 medium")],
)
def test_a_picture_of_each_family_is_made_again_from_its_file(
    fixture: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(fixture)(kind)
    sf.load(model)(**SMALL).images[0].save(tmp_path / "x.png")
    again = sf.replay(tmp_path / "x.png", folder=model.parent)
    assert (again.verdict, again.differences, str(again)) == ("identical", (), "identical")
    assert str(model.parent) not in json.dumps(record_of(tmp_path / "x.png"))  # no folder of this machine


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_each_format_keeps_the_record(emoji: Graph, tmp_path: Path, name: str) -> None:
    picture = emoji(**CALL).images[0]
    picture.save(tmp_path / name)
    again = sf.replay(tmp_path / name)
    assert again.verdict == "identical" and again.picture.tobytes() == picture.tobytes()
    assert (again.largest == 0) == (name == "x.png")


@pytest.mark.parametrize("seed", [7, [3, 4, 5], None])
def test_picture_three_of_three_is_made_again(emoji: Graph, tmp_path: Path, seed: Any) -> None:
    call = {**CALL, "seed": seed} if seed is not None else {"prompt": "a fox", "num_inference_steps": 2}
    pictures = emoji(**call, num_images_per_prompt=3).images
    pictures[2].save(tmp_path / "x.png")
    again = sf.replay(tmp_path / "x.png")
    assert again.verdict == "identical" and again.picture.tobytes() == pictures[2].tobytes()
    assert pictures[2].tobytes() != pictures[0].tobytes()
    own = again.record["picture"]
    assert (own["row"], own["rows"]) == (2, 3)
    assert own["seed"] == (5 if isinstance(seed, list) else again.inputs["seed"])
    if seed is not None:
        assert [picture.seed for picture in pictures] == (seed if isinstance(seed, list) else [seed] * 3)
        assert ">seed 7<" in emoji(**CALL)._repr_html_()


def test_what_a_call_swaps_is_in_the_record(emoji: Graph, tmp_path: Path) -> None:
    guider = sf.guiders.ClassifierFreeGuidance(guidance_scale=3.0, stop=0.5)
    out = emoji(**CALL, scheduler="dpmpp_2m_karras", guider=guider, negative_prompt="a pear")
    out.images[0].save(tmp_path / "x.png")
    again = sf.replay(tmp_path / "x.png")
    assert again.verdict == "identical" and again.differences == ()
    assert again.graph["denoise.guider"] == guider


def test_adapters_are_found_again_with_their_strengths(emoji: Graph, tmp_path: Path) -> None:
    name = "down_blocks.1.attentions.0.proj_in"
    rows, columns = emoji.bindings["unet"].load().get_submodule(name).weight.shape[:2]
    body = f"lora_unet_{name.replace('.', '_')}"
    made = torch.Generator().manual_seed(0)
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "style.safetensors"
    tensors = {
        f"{body}.lora_down.weight": torch.randn(2, columns, 1, 1, generator=made),
        f"{body}.lora_up.weight": torch.randn(rows, 2, 1, 1, generator=made),
    }
    save_file(tensors, file)
    adapter = sf.load_adapter(file).scaled(0.5)
    emoji(**CALL, adapters=[adapter]).images[0].save(tmp_path / "x.png")
    again = sf.replay(tmp_path / "x.png", folder=tmp_path)
    assert again.verdict == "identical" and again.differences == ()
    text = parameters(tmp_path / "x.png")
    assert text.startswith("a red apple <lora:style:0.5>\nSteps: 2") and 'Lora hashes: "style: ' in text
    save_file({key: 2 * value for key, value in tensors.items()}, file)
    changed = sf.replay(tmp_path / "x.png", folder=tmp_path)
    assert changed.differences == ("adapter style: its file has other contents than the recorded one",)
    assert changed.verdict == "different"


def test_pictures_and_tensors_are_passed_again(emoji: Graph, tmp_path: Path) -> None:
    Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 20).convert("RGB").save(tmp_path / "in.png")
    call = {**CALL, "strength": 0.8, "image": str(tmp_path / "in.png")}
    emoji.task("image2image")(**call).images[0].save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"image  is in the record by its contents only\. Pass it: sf\.replay"):
        sf.replay(tmp_path / "x.png")
    with Image.open(tmp_path / "in.png") as image:  # the same pixels in another form
        again = sf.replay(tmp_path / "x.png", image=image)
    assert again.verdict == "identical" and again.differences == ()
    other = sf.replay(tmp_path / "x.png", image=Image.new("RGB", (64, 64)))
    assert other.differences == ("input image: another value is passed than the recorded one",)


def test_a_component_in_memory_is_passed_again(tmp_path: Path) -> None:
    vae = sf.models.AutoencoderKL.from_pretrained(EMBEDDED / "vae")
    sf.load("emoji").bind(vae=vae)(**CALL).images[0].save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"vae  was an object in memory \(AutoencoderKL\)\. Pass it: sf\.replay"):
        sf.replay(tmp_path / "x.png")
    assert sf.replay(tmp_path / "x.png", vae=vae).verdict == "identical"
    with torch.no_grad():
        next(vae.parameters()).mul_(1.5)
    changed = sf.replay(tmp_path / "x.png", vae=vae)
    assert changed.differences == ("component vae: its values are not the recorded ones",)


# ------------------------------------------------------------------------------------------------ what differs
def test_a_changed_weight_is_named(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "models" / "mine")
    sf.load(tmp_path / "models" / "mine")(**CALL).images[0].save(tmp_path / "x.png")
    file = tmp_path / "models" / "mine" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors["conv_in.weight"] *= 1.01
    save_file(tensors, file)
    changed = sf.replay(tmp_path / "x.png", folder=tmp_path / "models", manager=sf.ComponentsManager())
    assert changed.differences == ("component unet: diffusion_pytorch_model.safetensors is not the recorded file",)
    assert changed.verdict != "identical"


def test_a_changed_block_is_named(emoji: Graph, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guider = type(emoji["denoise.guider"])

    def code_key(thing: type) -> str:
        return "other" if thing is guider else "same"

    monkeypatch.setattr("sfumato.presets.records.keys.code_key", code_key)
    differences = sf.replay(saved).differences
    assert "block denoise.guider: its code is not the recorded one" in differences


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("inputs", "prompt"), "a pear", "input prompt: was changed in the record"),
        (("inputs", "num_inference_steps"), 3, "input num_inference_steps: was changed in the record"),
        (
            ("graph", "graph", "nodes", -2, "config", "slicing"),
            True,
            "block decode: its config was changed in the record",
        ),
        (("graph", "graph", "edges", 0, "how"), "pinned", "graph: its wires were changed in the record"),
        (("versions", "torch"), "1.13", f"torch: 1.13 made the picture, and this machine has {torch.__version__}"),
        (("defaults", "guidance_scale"), 5.0, "input guidance_scale: its default was 5.0, and is 4.0 now"),
    ],
)
def test_a_changed_record_is_named(
    saved: Path, tmp_path: Path, place: tuple[str | int, ...], value: Any, named: str
) -> None:
    def change(record: Any) -> None:
        for key in place[:-1]:
            record = record[key]
        record[place[-1]] = value

    assert sf.replay(rewritten(saved, change, tmp_path / "x.png")).differences == (named,)


def test_changed_pixels_of_a_file_are_named(saved: Path, tmp_path: Path) -> None:
    with Image.open(saved) as picture:
        picture.load()
        texts = picture.info
        picture.putpixel((0, 0), (1, 2, 3))
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("sfumato", texts["sfumato"])
        picture.save(tmp_path / "x.png", pnginfo=info)
    again = sf.replay(tmp_path / "x.png")
    assert again.verdict == "identical"  # with what the run drew
    assert again.differences == ("picture: the pixels of the file were changed after it was saved",)


def test_another_value_makes_another_picture(saved: Path) -> None:
    other = sf.replay(saved, prompt="a cactus")
    assert isinstance(other, Replay) and other.verdict == "different"
    assert str(other).splitlines()[0].startswith("different (by ")
    assert other.differences == ("input prompt: another value is passed than the recorded one",)


# ------------------------------------------------------------------------------------------------ saving
def parameters(file: Path) -> str:
    with Image.open(file) as picture:
        picture.load()
        return texts_of(picture)["parameters"]


def test_a_picture_has_the_text_that_other_programs_read(emoji: Graph, tmp_path: Path) -> None:
    call = {**CALL, "prompt": ["a pear", "a fox, red"], "negative_prompt": "ugly", "seed": [3, 4], "clip_skip": 1}
    emoji(**call, scheduler="dpmpp_2m_karras").images[1].save(tmp_path / "x.png")
    sha = record_of(tmp_path / "x.png")["keys"]["components"]["unet"]["files"]["diffusion_pytorch_model.safetensors"]
    assert parameters(tmp_path / "x.png") == (
        "a fox, red\nNegative prompt: ugly\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 4, "
        f"Size: 64x64, Model hash: {sha[:10]}, Model: emoji, Clip skip: 2, RNG: CPU, Version: sfumato 0.1.0"
    )


def test_a_picture_of_halfway_latents_has_no_seed(emoji: Graph, tmp_path: Path) -> None:
    half = emoji.only("halfway")(**CALL, stop_step=1).halfway
    picture: Picture = emoji(**{**CALL, "seed": 8}, halfway=half).images[0]
    picture.save(tmp_path / "x.png")
    assert picture.seed is None and "Seed" not in parameters(tmp_path / "x.png")
    assert picture.tobytes() == emoji(**CALL).images[0].tobytes()
    assert sf.replay(tmp_path / "x.png", halfway=half).verdict == "identical"


def test_private_inputs_are_left_out_of_both_texts(emoji: Graph, tmp_path: Path) -> None:
    picture: Picture = emoji(**CALL).images[0]
    picture.save(tmp_path / "x.png", private=("prompt", "seed"))
    with Image.open(tmp_path / "x.png") as file:
        file.load()
        texts = texts_of(file)
    assert "apple" not in str(texts) and "Seed" not in texts["parameters"]
    assert "seed" not in json.loads(texts["sfumato"])["picture"]
    with pytest.raises(InputError, match=r"prompt  was left out of the record(?s:.)*seed    was left out"):
        sf.replay(tmp_path / "x.png")
    assert sf.replay(tmp_path / "x.png", prompt="a red apple", seed=7).verdict == "identical"
    with pytest.raises(InputError, match=r"promt  is no input of this run.*Did you mean 'prompt'"):
        picture.save(tmp_path / "y.png", private=("promt",))


def test_records_can_be_switched_off(emoji: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture: Picture = emoji(**CALL).images[0]
    picture.save(tmp_path / "call.png", record=False)
    monkeypatch.setenv("SFUMATO_RECORD", "0")
    picture.save(tmp_path / "environment.png")
    for name in ("call.png", "environment.png"):
        with Image.open(tmp_path / name) as file:
            file.load()
            assert texts_of(file) == {}
        with pytest.raises(PictureError, match="has no record of a run"):
            sf.replay(tmp_path / name)


def test_a_changed_picture_has_no_record_and_a_copy_has(emoji: Graph, tmp_path: Path) -> None:
    picture: Picture = emoji(**CALL).images[0]
    picture.convert("RGB").save(tmp_path / "copy.png")
    assert sf.replay(tmp_path / "copy.png").verdict == "identical"
    for name, changed in (("small.png", picture.resize((32, 32))), ("grey.png", picture.convert("L"))):
        changed.save(tmp_path / name)
        with pytest.raises(PictureError, match="has no record"):
            sf.replay(tmp_path / name)
    picture.putpixel((0, 0), (1, 2, 3))
    assert picture.record is None


def test_texts_of_the_caller_are_kept(emoji: Graph, tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    picture, info, exif = emoji(**CALL).images[0], PngInfo(), Image.Exif()
    info.add_text("Author", "me")
    exif[0x010E] = "mine"
    picture.save(tmp_path / "x.png", pnginfo=info)
    picture.save(tmp_path / "x.webp", exif=exif)
    with Image.open(tmp_path / "x.png") as one, Image.open(tmp_path / "x.webp") as other:
        assert one.info["Author"] == "me" and other.getexif()[0x010E] == "mine"
        assert {"sfumato", "parameters"} == {*texts_of(one)} == {*texts_of(other)}


class Inverted(NamedTuple):
    images: Images


class OnlyHere(sf.Block, name="tests.replay.OnlyHere"):
    """A block whose class the reader of the record may not have."""

    def __call__(self, images: Images) -> Inverted:
        return Inverted(1 - images)


def test_a_block_that_is_not_known_is_no_code_that_runs(emoji: Graph, tmp_path: Path) -> None:
    pipe = emoji.insert("invert", OnlyHere(), after="decode")
    pipe(**CALL).images[0].save(tmp_path / "x.png")
    assert sf.replay(tmp_path / "x.png").verdict == "identical"

    def foreign(record: dict[str, Any]) -> None:
        record["graph"]["auto_map"] = {"theirs.Block": "evil.Block"}
        record["graph"]["code"] = {"evil.py": {"sha256": "0" * 64}}
        next(n for n in record["graph"]["graph"]["nodes"] if n["name"] == "invert")["block"] = "theirs.Block"

    file = rewritten(tmp_path / "x.png", foreign, tmp_path / "y.png")
    with pytest.raises(GraphFileError, match=r"no block is called 'theirs\.Block'"):
        sf.replay(file)
    assert sf.replay(file, graph=pipe).verdict == "identical"


# ------------------------------------------------------------------------------------------------ strangers
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not JSON", "its record cannot be read. It is not JSON"),
        ("[]", "its text 'sfumato' is no record of a run"),
        ('{"format": 99}', "its record is of format 99, and this version reads format 1"),
        ('{"format": 1, "graph": {}}', "its record is broken \\(it has no adapters, defaults"),
        ('{"sfumato": "0.0.9", "inputs": {}}', "its text 'sfumato' is no record of a run"),
    ],
)
def test_a_broken_record_is_refused(saved: Path, tmp_path: Path, text: str, says: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("sfumato", text)
    with Image.open(saved) as picture:
        picture.save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(PictureError, match=says):
        sf.replay(tmp_path / "x.png")


def test_a_record_that_grows_is_refused(saved: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = b"sfumato\0" + zlib.compress(b"[" * 2**24, 9)
    with Image.open(saved) as picture:
        picture.save(tmp_path / "x.jpg", exif=exif)
    with pytest.raises(PictureError, match="has more than 1,048,576 bytes, and the limit is"):
        sf.replay(tmp_path / "x.jpg")


@pytest.mark.parametrize("path", ["/etc", "../../etc", "~/models", "./../models", "https://example.com/x"])
def test_a_record_leads_to_no_other_folder(saved: Path, tmp_path: Path, path: str) -> None:
    def elsewhere(record: dict[str, Any]) -> None:
        record["graph"]["graph"]["components"]["vae"]["pretrained_model_name_or_path"] = path

    file = rewritten(saved, elsewhere, tmp_path / "x.png")
    with pytest.raises((GraphFileError, LoadError), match=r"leads out|is not in|cannot|no such"):
        sf.replay(file, folder=tmp_path)


def test_texts_of_a_record_change_no_terminal(saved: Path, tmp_path: Path) -> None:
    def hostile(record: dict[str, Any]) -> None:
        record["versions"]["torch"] = "\x1b[31mred\nidentical"
        record["keys"]["components"]["vae"]["files"]["\x1b[2J"] = "0"

    text = str(sf.replay(rewritten(saved, hostile, tmp_path / "x.png")))
    assert "\x1b" not in text and text.count("\n") == 2


def test_a_run_that_was_changed_on_its_way_has_no_record(emoji: Graph) -> None:
    run = emoji.stream(**{**CALL, "num_inference_steps": 3})
    for event in run:
        if isinstance(event, sf.events.TurnFinished):
            break
    state = run.state
    run.close()
    same, other = sf.resume(state).result().images[0], sf.resume(state, guidance_scale=1.0).result().images[0]
    assert same.record is not None and getattr(other, "record", None) is None
