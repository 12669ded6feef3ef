"""`AND` in a text of A1111, and a second pass with models and prompts of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sfumato as sf
from sfumato import Graph
from sfumato.presets.bridge.a1111.several import composed, joined_prompt, split_prompt

from .sdxl import xl as xl
from .sdxl import xl_checkpoint as xl_checkpoint

CALL = {"negative_prompt": "ugly", "seed": 7, "num_inference_steps": 2, "output_type": "pt"}


def text(prompt: str, *settings: str) -> str:
    return f"{prompt}\n{', '.join(['Steps: 2, Sampler: Euler, CFG scale: 4, Seed: 7, Size: 64x64', *settings])}"


# ------------------------------------------------------------------------------------------------ several prompts
@pytest.mark.parametrize(
    "prompt", ["a fox", "a fox AND a cat :0.5", "a (red:1.2) fox :-1 AND a [cat:dog:0.5] AND x :1.5", "a BRAND"]
)
def test_prompts_that_are_joined_are_read_as_the_same(prompt: str) -> None:
    assert joined_prompt(split_prompt(prompt)) == prompt
    assert [weight for _, weight in split_prompt("a :-1 AND b AND c : .5 ")] == [-1, 1, 0.5]


def test_several_prompts_move_the_prediction_by_their_weights(emoji: Graph) -> None:
    def drawn(graph: Graph, **inputs: object) -> torch.Tensor:
        return graph(**{**CALL, "prompt": "a fox", **inputs}).images

    alone = drawn(emoji)
    assert torch.equal(drawn(composed(emoji, [1.0, 0.0]), and_prompt="a cat"), alone)
    halves = drawn(composed(emoji, [0.5, 0.5]), and_prompt="a fox")
    assert torch.allclose(halves, alone, atol=1e-5)
    more = drawn(composed(emoji, [1.0, 0.5]), and_prompt="a fox", guider="none")  # n + 1.5 (c - n)
    assert torch.allclose(more, drawn(emoji, guidance_scale=1.5), atol=1e-5)
    perturbed = drawn(composed(emoji, [0.25, 0.75]), and_prompt="a fox", guider="pag")
    assert torch.allclose(perturbed, drawn(emoji, guider="pag"), atol=1e-4)


def test_and_is_read_and_written(emoji: Graph, tmp_path: Path) -> None:
    found = sf.from_a1111(text("a fox AND a (red:1.2) apple :0.6 AND snow :-0.2"), model=emoji)
    assert list(found.report.problems) == []
    assert [found.inputs[name] for name in ("prompt", "and_prompt", "and_prompt_2")] == [
        "a fox", "a (red:1.2) apple", "snow",
    ]  # fmt: skip
    picture = found.graph(**found.inputs).images[0]
    picture.save(tmp_path / "x.png")
    again = sf.from_a1111(tmp_path / "x.png", model=emoji)
    assert again.inputs == {**found.inputs, **{name: again.inputs[name] for name in again.inputs.keys() - found.inputs}}
    assert again.graph(**again.inputs).images[0].tobytes() == picture.tobytes()


def test_a_family_without_a_negative_prompt_reads_and_as_the_word() -> None:
    found = sf.from_a1111(text("a fox AND a cat", "Distilled CFG Scale: 3.5"))
    assert found.inputs["prompt"] in ("a fox and a cat", "a fox")


# ------------------------------------------------------------------------------------------------ the second pass
HIRES = ("Denoising strength: 0.5, Hires upscale: 1.5, Hires steps: 1", "Hires upscaler: Latent")


def second_pass_of(pipe: Graph, folder: Path, *more: str, prompt: str = "a fox") -> sf.FromA1111:
    return sf.from_a1111(text(prompt, *HIRES, *more).replace("64x64", "32x32"), model=pipe, folder=folder)


def test_the_second_pass_may_have_another_checkpoint(
    tiny: Callable[..., Graph], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("sd2"), tmp_path / "other")
    pipe = tiny("sd")
    plain, own = (
        second_pass_of(pipe, tmp_path),
        second_pass_of(pipe, tmp_path, "Hires checkpoint: other.safetensors [0]"),
    )
    assert not own.report.problems
    names = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    assert own.graph.bindings.keys() - pipe.bindings.keys() == {f"hires_{name}" for name in names}
    assert own.graph.bindings["hires_scheduler"].prediction_type == "v_prediction"
    pictures = [found.graph(**found.inputs).images[0].tobytes() for found in (plain, own)]
    assert pictures[0] != pictures[1]
    same = own.graph.bind({f"hires_{name}": plain.graph.bindings[name] for name in names})
    assert same(**own.inputs).images[0].tobytes() == pictures[0]
    missing = second_pass_of(pipe, tmp_path, "Hires checkpoint: gone")
    assert [line.setting for line in missing.report.problems] == ["Hires checkpoint"]
    assert missing.graph(**missing.inputs).images[0].tobytes() == pictures[0]


def test_the_second_pass_of_sdxl_has_its_size_and_prompts(xl: Callable[..., Graph], tmp_path: Path) -> None:
    pipe = xl("base")
    plain = second_pass_of(pipe, tmp_path)
    own = second_pass_of(pipe, tmp_path, "Hires prompt: a cat AND snow :0.5, Hires negative prompt: blue")
    assert not own.report.problems
    assert own.inputs["hires_prompt"] == "a cat" and own.inputs["hires_and_prompt"] == "snow"
    pictures = [found.graph(**found.inputs).images[0].tobytes() for found in (plain, own)]
    assert pictures[0] != pictures[1]
    one = second_pass_of(pipe, tmp_path, "Hires prompt: a fox, Hires negative prompt: .")
    one.inputs["hires_negative_prompt"] = ""
    assert one.graph(**one.inputs).images[0].tobytes() == pictures[0]
    sizes = plain.graph["second.size_positive"]
    assert sizes == pipe["size_positive"]


@pytest.mark.parametrize(
    "more",
    [
        ("Hires CFG Scale: 2, Hires prompt: a cat AND snow :0.5, Hires negative prompt: blue",),
        ("Hires sampler: DPM++ 2M, Hires schedule type: Karras, Variation seed: 3, Variation seed strength: 0.25",),
        ("ENSD: 31337, Token merging ratio: 0.5",),
    ],
)
def test_a_second_pass_is_written_and_read(emoji: Graph, tmp_path: Path, more: tuple[str, ...]) -> None:
    for upscaler in ("Latent (bicubic antialiased)", "Lanczos"):
        settings = (HIRES[0], f"Hires upscaler: {upscaler}", *more)
        found = sf.from_a1111(text("a fox AND a cat :0.3", *settings), model=emoji)
        assert not found.report.problems
        picture = found.graph(**found.inputs).images[0]
        picture.save(tmp_path / "x.png")
        again = sf.from_a1111(tmp_path / "x.png", model=emoji)
        assert not again.report.problems
        assert again.graph(**again.inputs).images[0].tobytes() == picture.tobytes()
