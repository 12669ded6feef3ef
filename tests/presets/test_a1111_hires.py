"""The second pass of a text of A1111: its own guidance scale and prompts."""

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.image.resize import ResizeLatents
from sfumato.blocks.latents.start import CutSchedule, DrawNoiseLike, MakeSchedule, NoiseImage, SeedRandom

from .test_a1111 import fates, read

TEXT = """a fox
Steps: 2, Sampler: Euler, CFG scale: 4, Seed: 7, Size: 32x32, Denoising strength: 0.5, Hires upscale: 2,
 Hires steps: 1, Hires upscaler: Latent""".replace(",\n", ",")


def test_the_second_pass_has_its_own_scale() -> None:
    plain, own = (sf.from_a1111(text, model="emoji") for text in (TEXT, f"{TEXT}, Hires CFG Scale: 1.5"))
    assert own.inputs["hires_guidance_scale"] == 1.5 and own.inputs["guidance_scale"] == 4
    assert [line.fate for line in own.report.lines if line.setting == "Hires CFG Scale"] == ["used"]
    pictures = [found.graph(**found.inputs).images[0].tobytes() for found in (plain, own)]
    assert pictures[0] != pictures[1]
    own.inputs["hires_guidance_scale"] = 4
    assert own.graph(**own.inputs).images[0].tobytes() == pictures[0]


def test_the_second_pass_has_its_own_prompts() -> None:
    own = f'{TEXT}, Hires prompt: "a cat, red <lora:x:1>", Hires negative prompt: blue'
    plain, found = (sf.from_a1111(text, model="emoji") for text in (TEXT, own))
    assert {name: found.inputs[f"hires_{name}"] for name in ("prompt", "negative_prompt")} == {
        "prompt": "a cat, red", "negative_prompt": "blue",
    }  # fmt: skip
    fates = {line.setting: line.fate for line in found.report.lines}
    assert (fates["Hires prompt"], fates["Hires negative prompt"]) == ("note", "used")
    picture = plain.graph(**plain.inputs).images[0].tobytes()
    assert found.graph(**found.inputs).images[0].tobytes() != picture
    found.inputs.update(hires_prompt="a fox", hires_negative_prompt="")
    assert found.graph(**found.inputs).images[0].tobytes() == picture


def test_hires_fix_is_a_second_pass(emoji: Graph) -> None:
    found = read(emoji, "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 3, Hires upscaler: Latent")
    assert not found.report.problems
    second = sf.Graph(
        random=SeedRandom(),
        enlarge=ResizeLatents(factor=2.0, method="bilinear"),
        schedule=sf.named(MakeSchedule(), num_inference_steps="more"),
        cut=CutSchedule(strength=0.5),
        noise=DrawNoiseLike(),
        start=NoiseImage(),
        denoise=emoji["denoise"],
        outputs=("latents",),
    )
    by_hand = emoji.insert("second", second, after="denoise")
    picture = found.graph(**found.inputs).images[0]
    assert picture.size == (128, 128)
    assert picture.tobytes() == by_hand(**found.inputs, more=6).images[0].tobytes()


def test_the_second_pass_may_have_its_own_sampler_and_upscaler(emoji: Graph) -> None:
    found = read(
        emoji, "Denoising strength: 0.5, Hires resize: 96x80, Hires sampler: Euler a, Hires upscaler: R-ESRGAN 4x+"
    )
    assert type(found.graph.bindings["hires_scheduler"]) is sf.schedulers.EulerAncestralDiscreteScheduler
    assert fates(found)["Hires upscaler"] == "not supported" and fates(found)["Hires sampler"] == "used"
    assert found.graph(**found.inputs).images[0].size == (96, 80)
