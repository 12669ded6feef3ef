"""Previews of denoising: what they show, what they cost, and in which loops there are some."""

from collections.abc import Sequence
from threading import Event
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato import Cancelled, ConfigError, Graph, LatentSpace, Loop, Map, Running
from sfumato.blocks.decode.colours import colours_of
from sfumato.blocks.decode.previews import preview
from sfumato.components.types import Latents
from sfumato.graph import Lazy
from sfumato.graph.events import StepFinished, TurnFinished

from .fit_colours import examples, fit

CALL = {"prompt": "a fox", "seed": 7, "num_inference_steps": 6}


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji")


@pytest.fixture(scope="module")
def steps(pipe: Graph) -> Sequence[StepFinished]:
    return [event for event in pipe.stream(**CALL) if isinstance(event, StepFinished)]


@pytest.fixture(scope="module")
def image(pipe: Graph) -> Any:
    return pipe(**CALL).images[0]


def difference(a: Any, b: Any, size: int = 8) -> float:
    """The mean difference of two pictures, shrunk to this many pixels a side; 0 to 255."""
    small = [np.asarray(picture.resize((size, size), resample=4), np.float32) for picture in (a, b)]
    return float(np.abs(small[0] - small[1]).mean())


# ------------------------------------------------------------------------------------------------ what they show
def test_a_preview_has_the_size_and_about_the_colours_of_the_picture(steps: Sequence[StepFinished], image: Any) -> None:
    shown = [step.preview()[0] for step in steps]
    assert [one.size for one in shown] == [(64, 64)] * 6
    assert difference(shown[-1], image) < 30 < difference(shown[0], image)


def test_an_autoencoder_shows_the_estimate_of_the_picture(
    pipe: Graph, steps: Sequence[StepFinished], image: Any
) -> None:
    """The estimate of a step is closer to the result than its latents, which have noise."""
    shown = [step.preview(vae=pipe.bindings["vae"])[0] for step in steps]
    assert difference(shown[-1], image, 64) < 3
    noisy = preview(steps[2].latents, {}, pipe.bindings["vae"])[0]
    assert 2 * difference(shown[2], image, 64) < difference(noisy, image, 64)


def test_each_row_has_a_picture(pipe: Graph) -> None:
    run = pipe.stream(**{**CALL, "prompt": ["a fox", "a key"], "num_inference_steps": 1})
    assert [len(event.preview()) for event in run if isinstance(event, StepFinished)] == [2]


def test_the_colours_of_the_embedded_model_are_a_least_squares_fit() -> None:
    latents, colours = examples(("a fox", "a green leaf", "a blue heart", "a crown"), ("noto", "fluent"), 4)
    found = colours_of(LatentSpace(channels=8, scaling=0.18215, shift=0.0))
    assert found is not None
    ours = torch.tensor([*found[0], found[1]])
    ones = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    left, least = (float((colours - ones @ made).square().mean()) for made in (ours, fit(latents, colours)))
    assert left < 1.5 * least < 0.25 * float(colours.var())


CONFIGS = {
    "sd": {"latent_channels": 4, "scaling_factor": 0.18215},
    "sdxl": {"latent_channels": 4, "scaling_factor": 0.13025},
    "sd3": {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    "flux": {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
}


@pytest.mark.parametrize("family", CONFIGS)
def test_each_family_has_a_matrix(family: str) -> None:
    vae = sf.models.AutoencoderKL.from_config({**CONFIGS[family], "block_out_channels": [32], "norm_num_groups": 32})
    channels = CONFIGS[family]["latent_channels"]
    found = colours_of(vae.space or LatentSpace())
    assert found is not None and len(found[0]) == channels
    made = preview(torch.zeros(1, int(channels), 2, 3), {"vae": vae})[0]
    assert made.size == (24, 16) and np.allclose(np.asarray(made)[0, 0], np.round((np.array(found[1]) + 1) * 127.5))


def test_an_unknown_space_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        preview(torch.zeros(1, 5, 2, 2), {})
    text = "There is no matrix from this latent space (5 channels) to colours, so no preview. "
    assert str(caught.value) == f"{text}Pass an autoencoder: event.preview(vae=…)."
    with pytest.raises(ConfigError, match=r"^A preview needs an autoencoder, got int\. Pass vae=sf\.load_component"):
        preview(torch.zeros(1, 4, 2, 2), {}, 3)


# ------------------------------------------------------------------------------------------------ tiny autoencoders
class Tiny(Lazy):
    """A handle of a tiny autoencoder, and its lender; without room, it would have to wait."""

    def __init__(self, room: bool) -> None:
        self.room, self.held, self.used = room, 0, 0
        self.made = sf.models.AutoencoderTiny(latent_channels=8, decoder_block_out_channels=(8,) * 4)

    @property
    def type(self) -> Any:
        return sf.models.AutoencoderTiny

    @property
    def lender(self) -> Any:
        return self

    def lease(self, components: Sequence[Any], owner: str, stop: Event | None = None) -> "Tiny":
        # A run that waits must not hold others.
        assert list(components) == [self] and stop is not None and stop.is_set()
        if not self.room:
            raise Cancelled("no room")
        self.held += 1
        return self

    def release(self) -> None:
        self.held -= 1

    def load(self) -> Any:
        assert self.held == 1
        self.used += 1
        return self.made


@pytest.mark.parametrize("room", [True, False])
def test_a_bound_tiny_autoencoder_decodes_if_it_need_not_wait(steps: Sequence[StepFinished], room: bool) -> None:
    tiny = Tiny(room)
    made = preview(steps[-1].clean, {**steps[-1]._components, "vae": tiny})
    plain = steps[-1].preview()
    assert tiny.held == 0 and tiny.used == room and made[0].size == (64, 64)
    assert (made[0] == plain[0]) is not room


# ------------------------------------------------------------------------------------------------ loops
class Drawn(NamedTuple):
    latents: Latents


class Start(sf.Block):
    def __call__(self, item: float) -> Drawn:
        return Drawn(torch.full((1, 4, 2, 2), item))


ASKED: list[int] = []
"""The previews that somebody has looked at."""


class Move(sf.Block):
    """Adds the step, and may say what the clean latents are."""

    says: bool = False

    def __call__(self, latents: Latents, step: float, running: Running) -> Drawn:
        if self.says:
            running.preview(lambda: ASKED.append(1) or latents - 100)
        return Drawn(latents + step)


def denoise(says: bool) -> Loop:
    return Loop(over="steps", each="step", carry=("latents",), body=Graph(move=Move(says=says)))


def test_nothing_is_computed_for_previews_that_nobody_asks_for() -> None:
    ASKED.clear()
    graph = Graph(start=Start(), denoise=denoise(says=True))
    steps = [event for event in graph.stream(item=1.0, steps=[1.0, 2.0]) if isinstance(event, StepFinished)]
    assert ASKED == [] and float(steps[1].clean.mean()) == -98 and ASKED == [1]


def test_without_an_estimate_the_latents_are_shown() -> None:
    graph = Graph(start=Start(), denoise=denoise(says=False))
    steps = [event for event in graph.stream(item=1.0, steps=[1.0, 2.0]) if isinstance(event, StepFinished)]
    assert [float(step.clean.mean()) for step in steps] == [2.0, 4.0]
    assert steps[1].clean is steps[1].latents is steps[1].values["latents"]


def test_both_loops_of_a_graph_and_those_inside_a_map_have_steps() -> None:
    twice = Graph(start=Start(), small=denoise(says=True), large=denoise(says=False))
    graph = Graph(each=Map(over="items", each="item", body=twice))
    events = [event for event in graph.stream(items=[0.0, 1.0], steps=[1.0]) if isinstance(event, TurnFinished)]
    assert [(type(event), event.path) for event in events] == [
        (StepFinished, "each.small"), (StepFinished, "each.large"), (TurnFinished, "each"),
    ] * 2  # fmt: skip
    assert [float(event.clean.mean()) for event in events if isinstance(event, StepFinished)] == [-100, 2, -99, 3]


def test_a_loop_that_carries_no_latents_has_turns() -> None:
    class Number(NamedTuple):
        x: Annotated[float, "plain"]

    class Count(sf.Block):
        def __call__(self, x: float, item: float) -> Number:
            return Number(x + item)

    loop = Loop(over="items", each="item", carry=("x",), body=Graph(count=Count()))
    assert [type(e) for e in Graph(loop=loop).stream(x=0.0, items=[1.0]) if isinstance(e, TurnFinished)] == [
        TurnFinished
    ]
