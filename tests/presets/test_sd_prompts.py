"""Prompts and forms of pictures: long ones, empty ones, and what comes out."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import Event, Graph
from sfumato.graph.events import Note

from .support import Reference, apart, held, run

LONG = " ".join(["a red apple"] * 15)  # 45 words, of which the tower reads 30


def test_a_long_prompt_is_cut_with_a_warning_that_names_what_was_dropped(emoji: Graph) -> None:
    with pytest.warns(UserWarning, match=r"longer than the 30 tokens .* Dropped: 'a red apple( a red apple){4}'"):
        cut = emoji.only("positive")(prompt=LONG).positive
    short = emoji.only("positive")(prompt=" ".join(["a red apple"] * 10)).positive
    assert torch.equal(cut.tokens, short.tokens)


def test_a_long_prompt_is_cut_where_the_reference_cuts_it(emoji: Graph, emoji_reference: Reference) -> None:
    given: dict[str, Any] = {"prompt": LONG, "num_inference_steps": 2, "guidance_scale": 4.0}
    with pytest.warns(UserWarning, match="Dropped"):
        ours = run(emoji, **given, seed=1)
    assert apart(ours, emoji_reference(**given, seed=1)).latents < 1e-4


def test_in_a_stream_the_cut_is_a_note_and_no_warning(emoji: Graph) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events = list(emoji.only("positive").stream(prompt=LONG))
    notes = [e for e in events if isinstance(e, Note)]
    assert [(e.path, "Dropped: 'a red apple" in e.text) for e in notes] == [("positive", True)]
    assert isinstance(notes[0], Event)


def test_chunks_are_windows_encoded_side_by_side(emoji: Graph) -> None:
    whole = emoji.only("positive")(prompt=LONG, long_prompt="chunk").positive.tokens
    first, second = (" ".join(["a red apple"] * n) for n in (10, 5))
    by_hand = [emoji.only("positive")(prompt=part).positive.tokens for part in (first, second)]
    assert torch.equal(whole, torch.cat(by_hand, 1))


def test_chunks_make_a_picture_though_the_negative_prompt_is_shorter(emoji: Graph) -> None:
    given: dict[str, Any] = {"prompt": [LONG, "a fish"], "num_inference_steps": 2, "seed": 1}
    assert run(emoji, long_prompt="chunk", **given).latents.shape[0] == 2


def test_a_prompt_of_just_the_window_is_not_cut(emoji: Graph) -> None:
    emoji.only("positive")(prompt=" ".join(["a red apple"] * 10))


def test_a_prompt_is_read_whatever_its_case_and_spaces(emoji: Graph) -> None:
    one, two = (emoji.only("positive")(prompt=p).positive.tokens for p in ("A  Red\nApple ", "a red apple"))
    assert torch.equal(one, two)


def test_clip_skip_0_and_none_are_the_last_layer(emoji: Graph) -> None:
    one, two = (emoji.only("positive")(prompt="a fish", clip_skip=n).positive.tokens for n in (0, None))
    assert torch.equal(one, two)
    skipped = emoji.only("positive")(prompt="a fish", clip_skip=1).positive.tokens
    assert not torch.equal(one, skipped)


def test_pictures_come_as_pil_as_an_array_or_as_a_tensor(emoji: Graph) -> None:
    given: dict[str, Any] = {"prompt": ["a fish", "a cat"], "num_inference_steps": 2, "seed": 1}
    pil, array, tensor = (emoji(output_type=kind, **given).images for kind in ("pil", "np", "pt"))
    assert [(isinstance(p, Image.Image), p.size, p.mode) for p in pil] == [(True, (64, 64), "RGB")] * 2
    assert (array.shape, array.dtype) == ((2, 64, 64, 3), np.float32)
    assert (tensor.shape, tensor.dtype) == ((2, 3, 64, 64), torch.float32)
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.stack([np.asarray(p) for p in pil]), (array * 255).round().astype("uint8"))
    assert np.array_equal(np.asarray(emoji(**given).images[0]), np.asarray(pil[0]))


def test_every_way_to_give_one_image_is_the_same(emoji: Graph) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    floats = (pixels / 255).astype(np.float32)
    ways: list[Any] = [Image.fromarray(pixels), pixels, floats, torch.from_numpy(floats).permute(2, 0, 1)]
    ways += [[way] for way in ways] + [floats[None]]
    read = emoji.task("image2image").only("pixels")
    first, *others = (read(image=way).pixels for way in ways)
    assert all((first - other).abs().max() < 1e-6 for other in others)


def test_the_tokenizer_and_tower_are_shared_by_both_prompts(emoji: Graph) -> None:
    assert held(emoji, "tokenizer") is held(emoji.task("inpaint"), "tokenizer")
