"""`sf.resume` with another seed in a graph with two loops, and with adapters for each prompt."""

from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato.blocks.latents.start import CutSchedule, DrawNoiseLike, NoiseImage, SeedRandom
from sfumato.graph import Block, Graph

from .test_adapters import diffusers_file, kohya_file
from .test_resume import FOX, Enlarge, pixels, stopped


def test_a_new_seed_counts_in_a_second_loop_or_is_refused(emoji: Graph) -> None:
    """It was ignored: the noise of a loop that has begun, or ended, stays."""
    parts: dict[str, Block] = {"enlarge": Enlarge(), "cut": CutSchedule(strength=0.5), "noise": DrawNoiseLike(),
                               "start": NoiseImage(), "denoise": emoji["denoise"]}  # fmt: skip
    own = {"enlarge": Enlarge(), "reseed": sf.named(SeedRandom(), seed="second_seed"), **parts}
    given = {**FOX, "num_inference_steps": 2, "height": 32, "width": 32, "strength": 1.0}
    for nodes, seed, loop in ((parts, "seed", "denoise"), (own, "second_seed", "")):
        hires = emoji.insert("second", Graph(nodes, outputs=("latents",)), after="denoise")
        given = given if nodes is parts else {**given, "second_seed": 3}
        new: dict[str, Any] = {seed: 8}
        state = stopped(hires, 1, given, "second.denoise")
        with pytest.raises(
            sf.InputError, match=rf"^{seed}  changes '\w+' at the start of second.denoise, which has done 1 turn\."
        ):
            sf.resume(state, **new)
        first = state.at(0, "second.denoise")
        if loop:
            with pytest.raises(sf.InputError, match=rf"^{seed}  changes '\w+' at the start of {loop}, which has ended"):
                sf.resume(first, **new)
        else:
            assert pixels(sf.resume(first, **new)) == pixels(hires(**{**given, **new})) != pixels(hires(**given))


def test_adapters_for_each_prompt_are_passed_again(emoji: Graph, tmp_path: Path) -> None:
    diffusers_file(emoji, tmp_path / "a.safetensors")
    kohya_file(emoji, tmp_path / "b.safetensors")
    adapters = [[sf.load_adapter(tmp_path / f"{name}.safetensors")] for name in "ab"]
    given: dict[str, Any] = {**FOX, "prompt": ["a fox", "a cat"], "num_inference_steps": 3}
    saved = stopped(emoji, 1, given, adapters=adapters).save(tmp_path / "state")
    with pytest.raises(
        sf.LoadError,
        match=r"^The state was saved without adapters \(lists of adapters for 2 prompts\)\. Pass it again: ",
    ):
        sf.resume(saved)
    again = sf.resume(saved, adapters=adapters).result().images
    whole = emoji(**given, adapters=adapters).images
    assert [one.tobytes() for one in again] == [one.tobytes() for one in whole]
