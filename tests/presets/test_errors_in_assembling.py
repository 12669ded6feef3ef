"""The mistakes of DIFFUSERS.md 5.1, which are made while a pipeline is assembled, and what is said to them."""

from typing import Annotated, Any, NamedTuple

import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import Block, ConfigError, Graph, InputError, Loop, Port, WireError, component, named
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.graph.ports import Malformed


# ------------------------------------------------------------------------------------------------------ 5.1: assembling
class Number(NamedTuple):
    y: int


class Words(NamedTuple):
    text: str


class Count(Block):
    def __call__(self, x: int) -> Number:
        return Number(x + 1)


class Sum(Block):
    def __call__(self, y: torch.Tensor) -> Words:
        return Words(str(y.sum()))


class Say(Block):
    def __call__(self, y: int = 7) -> Words:
        return Words(f"{y}")


class Maybe(Block):
    def __call__(self, y: int | None = 7) -> Words:
        return Words(f"{y}")


class Lies(Block):
    def __call__(self, x: int) -> Number:
        return Words("no")  # pyright: ignore[reportReturnType]


class Moves(Block):
    device: torch.device = component()

    def __call__(self, x: int) -> Number:
        return Number(x)


class Takes(Block):
    unet: sf.models.AutoencoderKL = component()  # pyright: ignore[reportInvalidTypeForm]

    def __call__(self, latents: Annotated[Any, Port("latents")]) -> Words:
        return Words("")


def test_a_type_that_does_not_fit_its_reader() -> None:
    with pytest.raises(WireError, match=r"sum.y  takes Tensor, but count gives int"):
        Graph(count=Count(), sum=Sum())


def test_a_block_that_gives_what_it_does_not_say() -> None:
    with pytest.raises(sf.BrokenBlock, match=r"lies \(Lies\) gave Words, but its signature says Number"):
        Graph(lies=Lies())(x=1)


def test_blocks_in_a_wrong_order() -> None:
    with pytest.raises(WireError, match=r"count  no block reads its outputs"):
        Graph(say=Say(), count=Count(), outputs=("text",))
    with pytest.raises(WireError, match=r"again replaces it before any block reads it|no block reads"):
        Graph(count=Count(), again=Count(), say=Say())


def test_two_blocks_that_want_different_classes_under_one_name() -> None:
    with pytest.raises(
        WireError, match=r"unet  is UNet2DConditionModel in predict, but AutoencoderKL in takes. Rename"
    ):
        Graph(predict=PredictNoise(), takes=Takes(), outputs=("predict", "text"))
    both = Graph(predict=PredictNoise(), takes=named(Takes(), unet="other"), outputs=("predict", "text"))
    assert list(both.components) == ["unet", "other"]


def test_a_component_may_be_called_device() -> None:
    """diffusers: RecursionError."""
    assert Graph(moves=Moves()).bind(device=torch.device("cpu"))(x=1).y == 1


def test_inputs_may_be_called_output_and_state() -> None:
    """diffusers swallows them."""
    graph = Graph(count=named(Count(), x="output"), say=named(Say(), y="state"), outputs=("y", "text"))
    assert dict(graph(output=1, state=2)) == {"y": 2, "text": "2"}


def test_an_empty_graph_and_an_empty_loop() -> None:
    assert dict(Graph()()) == {}
    with pytest.raises(WireError, match=r"carry"):
        Loop(over="xs", each="x", carry=(), body=Graph(count=Count()))
    with pytest.raises(WireError, match=r"no block of the body takes 'x'"):
        Loop(over="xs", each="x", carry=("y",), body=Graph())


@pytest.mark.parametrize("wrong", [lambda x: x, Count, 3, None])  # pyright: ignore[reportUnknownLambdaType]
def test_what_is_no_block(wrong: Any) -> None:
    with pytest.raises(WireError, match=r"not a block"):
        Graph(a=wrong)
    with pytest.raises(WireError, match=r"not a block"):
        Graph(a=Count()).replace("a", wrong)


def test_an_explicit_none_is_none_and_not_the_default() -> None:
    """diffusers puts the default in its place."""
    assert Graph(maybe=Maybe())(y=None).text == "None"
    with pytest.raises(InputError, match=r"y  takes int, got None"):
        Graph(say=Say())(y=None)


def test_a_default_makes_an_input_optional_and_nothing_else_does(emoji: Graph) -> None:
    required = [name for name, port in emoji.inputs.items() if port.required]
    assert required == ["prompt"]
    assert [n for n, p in emoji.task("inpaint").inputs.items() if p.required] == ["prompt", "image", "mask_image"]


def test_a_signature_must_be_whole() -> None:
    with pytest.raises(Malformed, match=r"x"):

        class Untyped(Block):  # pyright: ignore[reportUnusedClass]
            def __call__(self, x) -> Number:  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
                return Number(x)


def test_a_config_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"has no 'scale'. There are: guidance_scale"):
        sf.guiders.ClassifierFreeGuidance.from_config({"scale": 3})


def test_a_value_is_not_changed_behind_its_givers_back(emoji: Graph) -> None:
    """Blocks give values; nothing is written into what came in."""
    noise = torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    copy = noise.clone()
    image = Image.new("RGB", (64, 64), "red")
    emoji(prompt="a cat", latents=noise, num_inference_steps=2)
    emoji.task("image2image")(prompt="a cat", image=image, latents=noise, num_inference_steps=3)
    assert torch.equal(noise, copy)
    assert image.getcolors() == [(64 * 64, (255, 0, 0))]
