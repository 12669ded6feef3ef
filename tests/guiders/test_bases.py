"""The abstract bases of guiders, and a guider of one's own."""

import pytest
import torch

import sfumato as sf

from .support import through


def test_the_bases_of_guiders_are_abstract() -> None:
    for base in (sf.guiders.Guider, sf.guiders.NegativePromptGuider):
        with pytest.raises(TypeError, match=f"{base.__name__} is abstract. Make one of its subclasses."):
            base()
        assert f"guiders.guider.{base.__name__}" not in sf.registry.blocks


def test_a_guider_of_your_own_needs_its_formula_alone() -> None:
    class Difference(sf.guiders.NegativePromptGuider):
        def combine(self, pos: torch.Tensor, neg: torch.Tensor) -> torch.Tensor:
            return 3 * pos - 2 * neg

    mine, published = (
        through(Difference(guidance_scale=3.0)),
        through(sf.guiders.ClassifierFreeGuidance(guidance_scale=3.0)),
    )
    assert max(float((a - b).abs().max()) for a, b in zip(mine, published, strict=True)) < 1e-5
    assert Difference(guidance_scale=1.0).simplified() == sf.guiders.NoGuidance()


def test_a_guider_without_its_formula_is_refused_when_its_class_is_made() -> None:
    text = r"Nothing has no combine\. Write it: One prediction of the positive and the negative one\."
    with pytest.raises(TypeError, match=text):

        class Nothing(sf.guiders.NegativePromptGuider):  # pyright: ignore[reportUnusedClass]  it is never made
            pass
