"""Sweeps of real and tiny models: equal to calls one by one, with each prompt encoded once; and the command."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

import sfumato as sf
from sfumato import Graph

from .support import counted
from .test_cli import sfumato
from .test_together import PIXELS, rows_of_forwards

CFG = sf.guiders.ClassifierFreeGuidance(guidance_scale=2.0)


def test_a_sweep_equals_calls_one_by_one(emoji: Graph) -> None:
    values = {"num_inference_steps": 2, "output_type": "pt"}
    with counted(emoji) as did:
        made = emoji.sweep(
            prompt=["a fox", "a sun"], guider=[CFG, "none"], seed=range(4), at_once=16, **values
        )  # fmt: skip
    assert did.unet == 2
    assert len(made) == 16
    for cell in (made[0], made[7], made[10], made[15]):
        alone = emoji(**values, **cell.values).images
        assert float((cell.outputs["images"] - alone).abs().max()) < PIXELS


def test_each_text_tower_runs_once_for_each_prompt(xl: Callable[[str], Graph]) -> None:
    pipe = xl("base")
    with ExitStack() as stack:
        towers = [
            tokens_of(stack, pipe.bindings[name].load()) for name in ("text_encoder", "text_encoder_2")
        ]  # fmt: skip
        made = pipe.sweep(
            prompt=["a red apple", "a small cat"], guider=["cfg", "none"], seed=range(4), num_inference_steps=1,
            height=64, width=64,
        )  # fmt: skip
    assert len(made) == 16
    assert [len(calls) for calls in towers] == [2, 2]


def test_the_empty_negative_prompt_is_encoded_once_for_all_prompts(emoji: Graph) -> None:
    """Its block reads the number of rows, which is made of the prompt. Numbers and texts count by their values."""
    with counted(emoji) as did:
        made = emoji.sweep(prompt=["a fox", "a sun", "a cat"], seed=range(2), num_inference_steps=1, output_type="pt")
    assert did.text_encoder == 4
    alone = emoji(prompt="a cat", seed=1, num_inference_steps=1, output_type="pt").images
    assert float((made[5].outputs["images"] - alone).abs().max()) < PIXELS


def test_a_negative_prompt_for_each_prompt_is_matched_anew(emoji: Graph) -> None:
    memo, few = sf.memo(), {"seed": 1, "num_inference_steps": 1, "output_type": "pt"}
    emoji(prompt="a fox", memo=memo, **few)
    run = emoji.stream(prompt=["a fox", "a sun"], memo=memo, **few)
    run.result()
    assert (run.outputs.images - emoji(prompt=["a fox", "a sun"], **few).images).abs().max() == 0
    once = emoji.stream(prompt="a sun", memo=memo, **few)
    once.result()
    said = {line.split()[0]: line for line in once.explain().splitlines()}
    assert "reused" in said["negative"] and said["negative"].endswith("its inputs have equal values")
    assert said["positive"].split()[1] == "ran"


def tokens_of(stack: ExitStack, tower: nn.Module) -> list[int]:
    """Fills with the rows of each forward of a text tower."""
    return rows_of_forwards(stack, next(iter(tower.children())))


# ---------------------------------------------------------------------------------------------------- the command
def test_the_command_writes_pictures_a_grid_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--set", "num_inference_steps=1", "-o", "apples")
    made = sfumato("sweep", "a red apple", "--vary", "seed=0..1", "--vary", "guider=cfg", "--vary", "guider=none", *few)
    assert (made.code, made.err) == (0, "")
    assert made.out.startswith("apples: 4 combinations, 0 failed, ")
    rows = [json.loads(line) for line in Path("apples/table.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["guider"], row["files"]) for row in rows] == [
        ("0", "ClassifierFreeGuidance", ["0001.png"]),
        ("0", "NoGuidance", ["0002.png"]),
        ("1", "ClassifierFreeGuidance", ["0003.png"]),
        ("1", "NoGuidance", ["0004.png"]),
    ]
    with Image.open("apples/0002.png") as picture, Image.open("apples/grid.png") as grid:
        assert picture.size == (64, 64) and grid.height > 128
    again = sfumato("sweep", "a red apple", "--vary", "seed=0..1", *few)
    assert again.err == "error: apples: exists, and is no empty folder. Pass another folder with --output.\n"


@pytest.mark.parametrize(
    ("vary", "text"),
    [
        ("seed", "--vary 'seed': has no value. Write --vary NAME=VALUE, once for each value."),
        ("seed=3..1", "--vary 'seed=3..1': needs a range of 1 to 10,000 numbers, the lower one first."),
        ("prompt=a cat", "--vary prompt=…: prompt is set, too. Remove one."),
    ],
)
def test_the_command_refuses_what_varies_nothing(vary: str, text: str) -> None:
    assert sfumato("sweep", "a fox", "--vary", vary).err == f"error: {text}\n"
