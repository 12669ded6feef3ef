"""The texts of A1111's web UI: read, written, and drawn from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

import sfumato as sf
from sfumato import FromA1111, Graph, LoadError, Picture, PictureError
from sfumato.blocks.latents.seeds import slerp
from sfumato.components.philox import normal
from sfumato.components.picture_texts import texts_of
from sfumato.presets.bridge.a1111.infotext import Infotext
from sfumato.presets.bridge.a1111.model_files import tensors_hash
from sfumato.presets.bridge.a1111.names import NEAREST, SAMPLERS, SCHEDULES, names_of, split

from .flux import flux_checkpoint as flux_checkpoint
from .support import EMBEDDED

FULL = """a (red:1.2) apple,
on a table
Negative prompt: ugly
and bad
Steps: 4, Sampler: DPM++ 2M Karras, CFG scale: 4.5, Seed: 7, Size: 64x64, Model hash: 0123456789, Model: mine, \
RNG: NV, Version: v1.10.1"""


@pytest.fixture(scope="module")
def emoji() -> Graph:
    return sf.load("emoji")


def read(emoji: Graph, line: str, prompt: str = "a fox", **more: Any) -> FromA1111:
    return sf.from_a1111(f"{prompt}\nSteps: 2, Seed: 7, Size: 64x64, {line}", model=emoji, **more)


def fates(found: FromA1111) -> dict[str, str]:
    return {line.setting: line.fate for line in found.report.lines}


# ------------------------------------------------------------------------------------------------ the text
LINES = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\x85\u2028\u2029"), max_size=30)
KEYS = st.from_regex(r"[A-Za-z][A-Za-z0-9 /-]{0,20}[A-Za-z0-9]", fullmatch=True)


def is_prompt(text: str) -> bool:
    lines = text.split("\n")
    return text == "\n".join(line.strip() for line in lines).strip() and not any(
        line.startswith("Negative prompt:") for line in lines
    )


PROMPTS = st.lists(LINES, max_size=3).map("\n".join).filter(is_prompt)


@settings(max_examples=40)
@given(PROMPTS, PROMPTS, st.dictionaries(KEYS, LINES, min_size=3, max_size=6))
def test_a_text_that_is_written_is_read_as_the_same(prompt: str, negative: str, values: dict[str, str]) -> None:
    text = Infotext(prompt, negative, values)
    assert Infotext.of(str(text)) == text


def test_prompts_have_many_lines_and_the_last_line_has_settings() -> None:
    text = Infotext.of(FULL)
    assert text.prompt == "a (red:1.2) apple,\non a table" and text.negative == "ugly\nand bad"
    assert list(text.settings)[:3] == ["Steps", "Sampler", "CFG scale"] and text.settings["Size"] == "64x64"


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("Steps: 4, Seed: 7", {}),  # less than three pairs belong to the prompt
        ("Steps: 4, Seed: 7, X: ", {"Steps": "4", "Seed": "7", "X": ""}),
        ('A: "x, y: z", B: "a \\"b\\"", C/D-e: 1', {"A": "x, y: z", "B": 'a "b"', "C/D-e": "1"}),
        ('A: "not closed, B: 2, C: 3', {"A": '"not closed', "B": "2", "C": "3"}),
        (
            'Steps: 4, Seed: 7, Hashes: {"model": "ab, c", "lora:x": "d"}, RNG: CPU, Civitai resources: [{"a": 1}]',
            {"Steps": "4", "Seed": "7", "RNG": "CPU", "Hashes": '{"model": "ab, c", "lora:x": "d"}',
             "Civitai resources": '[{"a": 1}]'},
        ),
    ],
)  # fmt: skip
def test_pairs_of_the_last_line(line: str, values: dict[str, str]) -> None:
    assert dict(Infotext.of(f"a fox\n{line}").settings) == values


@pytest.mark.parametrize("text", ["a" * 200_000, 'a: "' * 50_000, "a: [" * 50_000, "Hashes: {" * 20_000, "\\" * 99_999])
def test_texts_of_strangers_take_no_long_time(text: str) -> None:
    assert Infotext.of(text) is not None


# ------------------------------------------------------------------------------------------------ samplers
def test_every_sampler_and_schedule_is_here(emoji: Graph) -> None:
    for name, sampler in SAMPLERS.items():
        found = read(emoji, f"Sampler: {name}, Schedule type: Automatic")
        assert fates(found)["Sampler"] in ("used", "note"), name
        made = found.graph.bindings["scheduler"]
        curve = f"_{sampler.automatic}" if sampler.automatic and fates(found)["Sampler"] == "used" else ""
        assert made == emoji.using(scheduler=f"{sampler.name}{curve}").bindings["scheduler"]
    for schedule, curve in SCHEDULES.items():
        if curve != "beta":  # it needs scipy
            made = read(emoji, f"Sampler: Euler, Schedule type: {schedule}").graph.bindings["scheduler"]
            assert made == emoji.using(scheduler=f"euler_{curve}").bindings["scheduler"]


def test_old_names_have_the_schedule_in_them(emoji: Graph) -> None:
    assert split("DPM++ 2M SDE Exponential") == ("DPM++ 2M SDE", "Exponential") and split("DDIM") == ("DDIM", "")
    old, new = read(emoji, "Sampler: DPM++ 2M Karras"), read(emoji, "Sampler: DPM++ 2M, Schedule type: Karras")
    assert old.graph.bindings["scheduler"] == new.graph.bindings["scheduler"]


def test_samplers_that_are_not_here_are_reported_and_the_nearest_are_used(emoji: Graph) -> None:
    found = read(emoji, "Sampler: Restart, Schedule type: Karras")
    assert (fates(found)["Sampler"], fates(found)["Schedule type"]) == ("not supported", "used")
    assert "the nearest, Heun, is used" in str(found.report)
    assert found.graph.bindings["scheduler"] == emoji.using(scheduler="heun_karras").bindings["scheduler"]
    found = read(emoji, "Sampler: Euler, Schedule type: Align Your Steps 32")
    assert (fates(found)["Sampler"], fates(found)["Schedule type"]) == ("used", "not supported")
    assert set(NEAREST.values()) <= SAMPLERS.keys() and not NEAREST.keys() & SAMPLERS.keys()
    found = read(emoji, "Sampler: Mystery")
    assert fates(found)["Sampler"] == "not supported"
    assert found.graph.bindings["scheduler"] == emoji.bindings["scheduler"]


@pytest.mark.parametrize("name", ["euler_a", "dpmpp_2m_karras", "dpmpp_2m_sde_exponential", "ddim", "uni_pc", "lms"])
def test_a_scheduler_has_a_name_that_is_read_as_the_same(emoji: Graph, name: str) -> None:
    scheduler = emoji.using(scheduler=name).bindings["scheduler"]
    sampler, schedule = names_of(scheduler)
    again = read(emoji, f"Sampler: {sampler}, Schedule type: {schedule or 'Automatic'}")
    assert type(again.graph.bindings["scheduler"]) is type(scheduler)
    assert not schedule or again.graph.bindings["scheduler"] == scheduler


# ------------------------------------------------------------------------------------------------ drawing
def test_a_text_draws_what_the_same_call_draws(emoji: Graph) -> None:
    found = sf.from_a1111(FULL, model=emoji)
    assert fates(found)["Model"] == "note" and not found.report.problems
    by_hand = emoji(
        prompt="a (red:1.2) apple,\non a table", negative_prompt="ugly\nand bad", prompts="a1111", seed=7, noise="gpu",
        num_inference_steps=4, guidance_scale=4.5, scheduler="dpmpp_2m_karras", height=64, width=64,
    )  # fmt: skip
    assert found.graph(**found.inputs).images[0].tobytes() == by_hand.images[0].tobytes()


def test_a_picture_of_ours_is_read_back(emoji: Graph, tmp_path: Path) -> None:
    call: dict[str, Any] = {"prompt": "a fox", "seed": 5, "num_inference_steps": 3, "scheduler": "dpmpp_2m_karras"}
    picture = emoji(**call, prompts="a1111", guidance_scale=3.5).images[0]
    for name in ("x.png", "x.jpg", "x.webp"):
        picture.save(tmp_path / name)
        found = sf.from_a1111(tmp_path / name, model=emoji)
        assert found.graph(**found.inputs).images[0].tobytes() == picture.tobytes()


def test_defaults_are_those_of_the_program(emoji: Graph) -> None:
    found = read(emoji, "CFG scale: 3")
    assert found.inputs["noise"] == "gpu" and "clip_skip" not in found.inputs
    assert [line.text for line in found.report.lines if line.setting == "RNG"] == ["the default of the program"]
    assert read(emoji, "RNG: CPU").inputs["noise"] == "cpu"


def test_clip_skip_counts_from_one(emoji: Graph) -> None:
    inputs = read(emoji, "Clip skip: 2").inputs
    assert (inputs["clip_skip"], inputs["negative_clip_skip"]) == (1, 1)
    assert "clip_skip" not in read(emoji, "Clip skip: 1").inputs


def test_a_variation_mixes_the_noise_of_two_seeds(emoji: Graph) -> None:
    found = read(emoji, "Variation seed: 9, Variation seed strength: 0.3")
    first, other = (torch.from_numpy(normal(seed, 0, 512)).reshape(1, 8, 8, 8) for seed in (7, 9))
    plain = read(emoji, "CFG scale: 4")
    inputs = {key: value for key, value in plain.inputs.items() if key not in ("width", "height", "seed", "noise")}
    by_hand = plain.graph(**inputs, latents=slerp(0.3, first, other)).images[0]
    assert found.graph(**found.inputs).images[0].tobytes() == by_hand.tobytes()
    assert torch.allclose(slerp(0.0, first, other), first, atol=1e-6)
    assert torch.allclose(slerp(1.0, first, other), other, atol=1e-5)


def test_later_draws_have_their_own_seed(emoji: Graph) -> None:
    plain, moved = read(emoji, "Sampler: Euler a"), read(emoji, "Sampler: Euler a, ENSD: 31337")
    assert plain.graph(**plain.inputs).images[0].tobytes() != moved.graph(**moved.inputs).images[0].tobytes()
    still = read(emoji, "Sampler: Euler, ENSD: 31337"), read(emoji, "Sampler: Euler")
    assert (
        still[0].graph(**still[0].inputs).images[0].tobytes() == still[1].graph(**still[1].inputs).images[0].tobytes()
    )


def test_a_strength_without_hires_fix_is_that_of_a_picture(emoji: Graph) -> None:
    found = sf.from_a1111(
        "a fox\nSteps: 10, Seed: 7, Size: 64x64, Denoising strength: 0.5, Init image hash: abc", model="emoji"
    )
    assert found.graph.preset == ("sd", "image2image") and fates(found)["picture"] == "missing"
    assert found.inputs["strength"] == 0.6  # int(0.5 * 10) + 1 of 10 steps
    image = Image.new("RGB", (64, 64), "red")
    assert found.graph(**found.inputs, image=image).images[0].size == (64, 64)
    masked = sf.from_a1111(
        "a fox\nSteps: 10, Seed: 7, Denoising strength: 0.5, Mask blur: 4, Inpaint area: Only masked", model="emoji"
    )
    assert masked.graph.preset == ("sd", "inpaint") and masked.inputs["padding_mask_crop"] == 32
    assert fates(masked)["Mask blur"] == "not supported"


def test_what_is_not_mapped_is_listed(emoji: Graph) -> None:
    found = read(emoji, 'ControlNet 0: "Module: canny", ADetailer model: face, Tiling: True, Emphasis: No norm')
    assert {line.setting for line in found.report.problems} == {
        "ControlNet 0", "ADetailer model", "Tiling", "Emphasis",
    }  # fmt: skip
    assert "not supported  Tiling: True" in str(found.report)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("v1.5.2", "changes of a prompt over the steps count those of both passes; noise levels were rounded"),
        ("v1.6.0", "noise levels were rounded to half precision"),
        ("1.7.0-2-gabc", "the program that wrote the text"),
        ("v1.10.1", "the program that wrote the text"),
        ("f2.0.1v1.10.1-previous-1", "the program that wrote the text"),
    ],
)
def test_rules_of_old_versions_are_noted(emoji: Graph, version: str, text: str) -> None:
    found = read(emoji, f"Denoising strength: 0.5, Hires upscale: 2, Version: {version}", "a [fox:cat:0.5]")
    assert next(line for line in found.report.lines if line.setting == "Version").text.startswith(text)


# ------------------------------------------------------------------------------------------------ files
def lora(emoji: Graph, file: Path, amount: float = 1.0) -> Path:
    layer = "down_blocks.1.attentions.0.proj_in"
    rows, columns = emoji.bindings["unet"].load().get_submodule(layer).weight.shape[:2]
    made, body = torch.Generator().manual_seed(0), f"lora_unet_{layer.replace('.', '_')}"
    down, up = torch.randn(2, columns, 1, 1, generator=made), amount * torch.randn(rows, 2, 1, 1, generator=made)
    save_file({f"{body}.lora_down.weight": down, f"{body}.lora_up.weight": up}, file)
    return file


def test_loras_are_found_by_name_and_by_hash(emoji: Graph, tmp_path: Path) -> None:
    (tmp_path / "Lora").mkdir()
    file = lora(emoji, tmp_path / "Lora" / "ink.safetensors")
    hash = tensors_hash(file)[:12]
    named = read(emoji, f'Lora hashes: "ink: {hash}"', "a fox <lora:ink:0.5>", folder=tmp_path)
    hashed = read(emoji, f'Lora hashes: "other: {hash}"', "a fox <lora:other:0.5>", folder=tmp_path)
    assert fates(named)["<lora:ink>"] == "used" and fates(hashed)["<lora:other>"] == "note"
    assert named.inputs["prompt"] == "a fox"
    by_hand = emoji.with_adapters(sf.load_adapter(file).scaled(0.5))
    picture = by_hand(**named.inputs).images[0].tobytes()
    assert named.graph(**named.inputs).images[0].tobytes() == picture
    assert hashed.graph(**hashed.inputs).images[0].tobytes() == picture
    wrong = read(emoji, 'Lora hashes: "ink: 0123456789ab"', "<lora:ink:1>", folder=tmp_path)
    assert (
        next(line for line in wrong.report.lines if line.setting == "<lora:ink>").text == "its hash is not 0123456789ab"
    )
    missing = read(emoji, 'Lora hashes: "gone: 0123456789ab"', "a fox <lora:gone:1>", folder=tmp_path)
    assert fates(missing)["<lora:gone>"] == "missing" and missing.inputs["prompt"] == "a fox"


def test_a_model_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(EMBEDDED)  # a link to a folder is not followed
    assert fates(sf.from_a1111(FULL, folder=tmp_path))["Model"] == "missing"
    (tmp_path / "models" / "mine").unlink()
    shutil.copytree(EMBEDDED, tmp_path / "models" / "mine")
    found = sf.from_a1111(FULL, folder=tmp_path)
    assert fates(found)["Model"] == "used"
    assert found.graph(**found.inputs).images[0].size == (64, 64)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("a\nSteps: 20, Seed: 1, Size: 512x512, Model: dream", "sd"),
        ("a\nSteps: 20, Seed: 1, Size: 832x1216, Model: dream", "sdxl"),
        (
            "a\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 1",
            "flux",
        ),
        ("a\nSteps: 20, Sampler: Undefined, CFG scale: 3.5, Seed: 1, Clip skip: 2", "flux"),
    ],
)
def test_without_its_model_a_text_gives_the_graph_of_its_family(text: str, family: str) -> None:
    found = sf.from_a1111(text)
    assert found.graph.preset is not None and found.graph.preset[0] == family
    assert fates(found)["Model"] == "missing" and not found.graph.bindings.keys() - {"scheduler"}
    if family == "flux":
        assert found.inputs["guidance_scale"] == 3.5 and fates(found).get("Clip skip", "note") == "note"
        assert type(found.graph.bindings["scheduler"]) is sf.schedulers.FlowMatchEulerDiscreteScheduler


def test_texts_and_files_that_are_none_are_refused(tmp_path: Path, emoji: Graph) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(PictureError, match="has no text 'parameters'"):
        sf.from_a1111(tmp_path / "plain.png")
    with pytest.raises(PictureError, match="No such file"):
        sf.from_a1111("nowhere.png")
    with pytest.raises(LoadError, match="there is no such folder"):
        sf.from_a1111(FULL, folder=tmp_path / "nowhere")


def test_a_comment_of_other_programs_is_read(tmp_path: Path, emoji: Graph) -> None:
    info = PngInfo()
    info.add_text("parameters", FULL)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    inputs = [sf.from_a1111(tmp_path / "x.png", model=emoji).inputs]
    for number, data in enumerate((b"UNICODE\0" + FULL.encode("utf-16-le"), b"ASCII\0\0\0" + FULL.encode())):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = data
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.jpg", exif=exif)
        inputs.append(sf.from_a1111(tmp_path / f"{number}.jpg", model=emoji).inputs)
    assert all(one == inputs[0] for one in inputs) and json.dumps(inputs[0])


def test_the_refiner_of_sdxl_is_found(xl_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(xl_checkpoint("base"))
    shutil.copytree(xl_checkpoint("refiner"), tmp_path / "polish")
    text = "a fox\nSteps: 4, Seed: 7, Size: 64x64, Clip skip: 2, Refiner: polish [0123456789], Refiner switch at: 0.5"
    found = sf.from_a1111(text, model=tmp_path / "base", folder=tmp_path)
    assert found.graph.preset == ("sdxl", "refined") and found.inputs["denoising_end"] == 0.5
    assert (fates(found)["Refiner"], fates(found)["Clip skip"]) == ("used", "note") and not found.report.problems
    assert found.graph(**found.inputs).images[0].size == (64, 64)
    missing = sf.from_a1111(text.replace("polish", "gone"), model=tmp_path / "base", folder=tmp_path)
    assert missing.graph.preset == ("sdxl", "text2image") and fates(missing)["Refiner"] == "missing"


def test_the_modules_and_scales_of_forge_are_those_of_flux(
    flux_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(flux_checkpoint("dev") / "vae", tmp_path / "vae")
    file = next((tmp_path / "vae").glob("*.safetensors"))
    file.rename(tmp_path / "ae.safetensors")
    shutil.rmtree(tmp_path / "vae")
    text = (
        "a fox\nSteps: 2, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 7, "
        "Size: 32x32, Module 1: ae, Module 2: t5xxl_fp16, Version: f2.0.1v1.10.1"
    )
    found = sf.from_a1111(text, model=flux_checkpoint("dev"), folder=tmp_path)
    assert (found.inputs["guidance_scale"], found.inputs["true_cfg_scale"]) == (3.5, 1.0)
    assert (fates(found)["Module 1"], fates(found)["Module 2"]) == ("used", "missing")
    assert found.graph.bindings["vae"].spec.file == tmp_path / "ae.safetensors"
    assert found.graph(**found.inputs).images[0].size == (32, 32)


@pytest.mark.parametrize(
    ("call", "setting"),
    [
        ({"seed": 0}, "Seed: 0,"),
        ({"seed": 7, "guider": "none"}, "CFG scale: 1,"),
        ({"seed": [6, 7], "prompt": ["a fox", "a cat"], "guidance_scale": (2.0, 6.5)}, "CFG scale: 6.5,"),
    ],
)
def test_a_text_of_ours_has_the_numbers_of_its_row(
    emoji: Graph, tmp_path: Path, call: dict[str, Any], setting: str
) -> None:
    picture = emoji(**{"prompt": "a fox", "num_inference_steps": 1, **call}).images[-1]
    picture.save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as file:
        text = texts_of(file)["parameters"]
    assert setting in text
    found = sf.from_a1111(tmp_path / "x.png", model=emoji)
    again = found.graph(**found.inputs).images[0]
    assert max(ImageChops.difference(again, picture).tobytes()) <= 1


def test_private_numbers_are_not_in_the_text(emoji: Graph, tmp_path: Path) -> None:
    picture: Picture = emoji(prompt="a fox", seed=7, num_inference_steps=1, guidance_scale=3.5).images[0]
    picture.save(tmp_path / "x.png", private=("guidance_scale", "num_inference_steps"))
    with Image.open(tmp_path / "x.png") as file:
        assert "CFG scale" not in (text := texts_of(file)["parameters"]) and "Steps" not in text
