"""What models make of prompts is made once a run, and changes no bit of a prediction."""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.control.controlnet import ApplyControlNet
from sfumato.blocks.denoise.constants import RunConstants
from sfumato.components.models.constants import Constants
from sfumato.components.types import Pass, PredictFunction, Rows

from ..adapters.test_using import lora
from ..caches.support import CONFIGS, asks, conditioning, model, noise, predict_of, schedule

LAYERS = ("attn2.to_k", "attn2.to_v", "context_embedder", "caption_projection", "text_embedder", "add_embedding",
          "resolution_embedder", "aspect_ratio_embedder", "guidance_embedder", "encoder_hid_proj")  # fmt: skip
"""Layers that read prompts, sizes or scales alone. In joint attention, `attn2` reads the picture."""


def predictions(predict: PredictFunction, family: str, steps: int = 3, rows: int = 1) -> list[Tensor]:
    """Those of a loop in which the guider asks for one pass in the second step, and for two in the others."""
    ask, x, found = asks(family, rows=rows), noise(5, rows, 4, 8, 8), list[Tensor]()
    for i, step in enumerate(schedule(family, steps)):
        found += predict(ask(x, step)[1 if i == 1 else 0 :])
        x = x + 0.05 * found[-1]
    return found


@contextmanager
def nothing_kept() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Constants, "keeps", property(lambda _: False))
        yield


@contextmanager
def counted(made: nn.Module) -> Generator[Counter[str]]:
    """The calls of layers that read prompts."""
    calls = Counter[str]()

    def note(path: str, *_: object) -> None:
        calls[path] += 1

    with ExitStack() as stack:
        for path, layer in made.named_modules():
            if path.endswith(LAYERS):
                stack.callback(layer.register_forward_hook(partial(note, path)).remove)
        yield calls


@pytest.fixture(autouse=True)
def as_in_a_run() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("family", CONFIGS)
def test_layers_read_a_prompt_once_and_predictions_are_equal_to_the_bit(family: str) -> None:
    with nothing_kept():
        expected = predictions(predict_of(family), family)
    with counted(model(family)) as calls:
        found = predictions(predict_of(family), family, steps=3)
    assert all(map(torch.equal, found, expected))
    prompt = {path: n for path, n in calls.items() if family != "sd3" or "attn2" not in path}
    assert prompt and set(prompt.values()) == {2}  # once for the two passes, once for one of them


def test_passes_apart_keep_their_own_values() -> None:
    with counted(model("sdxl")) as calls:
        predictions(predict_of("sdxl", batching="apart"), "sdxl", steps=4)
    assert set(calls.values()) == {2}


def test_one_row_serves_all_rows_of_the_latents_in_all_steps() -> None:
    prompt, predict = conditioning("sd", 1), predict_of("sd")
    with counted(model("sd")) as calls:
        for step in schedule("sd", 3):
            predict([Pass(noise(1, 2, 4, 8, 8), step, prompt)])
    assert set(calls.values()) == {1}


def test_gradients_reach_the_prompt() -> None:
    prompt = conditioning("sd", 1)
    predict, step = predict_of("sd"), schedule("sd", 2)[0]
    plain = predict([Pass(noise(1, 1, 4, 8, 8), step, prompt)])[0]
    with torch.enable_grad():
        prompt.tokens.requires_grad_()
        made = predict([Pass(noise(1, 1, 4, 8, 8), step, prompt)])[0]
        made.sum().backward()
    assert prompt.tokens.grad is not None and torch.equal(made.detach(), plain)


def test_other_prompts_shapes_and_strengths_have_constants_of_their_own() -> None:
    of_run, first, second = RunConstants(), conditioning("sd", 1), conditioning("sd", 2)
    step = schedule("sd", 2)[0]

    def of(*prompts: Any, side: int = 8, strengths: Any = None) -> Constants:
        return of_run.of([Pass(noise(1, 1, 4, side, side), step, prompt) for prompt in prompts], strengths)

    own = of(first, second)
    assert own is of(first, second)
    assert own not in (of(second, first), of(first, second, side=16), of(first, second, strengths=0.5))
    assert own is of(first, second)
    for number in range(4):
        of(first, strengths=number)
    assert own is not of(first, second)  # the oldest is dropped


class Half(nn.Module):
    """Attention of a user's own, which reads tokens."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        assert context.ndim == 3
        return self.inner(x, context, mask) / 2


class HalfAttention(sf.taps.Change):
    part = "cross"

    def replaced(self, layer: nn.Module, at: object) -> nn.Module:
        return Half(layer)


TAPS = {
    "layers that read tokens": HalfAttention(),
    "a change of attention": sf.taps.Identity(),
    "merged tokens": sf.taps.TokenMerging(cross=True),
}


@pytest.mark.parametrize("family", ["sd", "pixart"])
@pytest.mark.parametrize("change", TAPS)
def test_taps_change_what_they_change_without_constants(family: str, change: str) -> None:
    if change == "merged tokens" and family == "pixart":
        return
    taps = sf.taps.Taps((sf.taps.Tap(TAPS[change]),))

    def made() -> Sequence[Tensor]:
        predict, prompt = predict_of(family), conditioning(family, 1)
        x = noise(1, 1, 4, 8, 8)
        return [
            t
            for step in schedule(family, 2)
            for t in predict([Pass(x, step, prompt), Pass(x, step, prompt, "perturbed", taps=taps)])
        ]

    with nothing_kept():
        expected = made()
    assert all(map(torch.equal, made(), expected))
    assert not torch.equal(expected[0], expected[1])


def test_control_nets_read_a_prompt_once() -> None:
    net = sf.models.ControlNetModel.from_unet(model("sd"), conditioning_embedding_out_channels=(4, 8)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False).copy_(noise(parameter.numel(), *parameter.shape) * 0.1)
    block = ApplyControlNet(controlnet=net)
    picture = Image.new("RGB", (16, 16), "orange")

    def made() -> list[Tensor]:
        return predictions(block(predict_of("sd"), picture, Rows(1, 1)).predict, "sd")

    with nothing_kept():
        expected = made()
    with counted(net) as calls:
        found = made()
    assert all(map(torch.equal, found, expected))
    assert set(calls.values()) == {2}
    assert not torch.equal(found[0], predictions(predict_of("sd"), "sd")[0])


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji").only("latents")


@pytest.fixture(scope="module")
def adapters(pipe: Graph, tmp_path_factory: pytest.TempPathFactory) -> list[sf.Adapter]:
    folder, unet = tmp_path_factory.mktemp("adapters"), pipe.bindings["unet"].load()
    for seed in (1, 2):
        save_file(lora(unet, "unet", seed, ("attn2.to_k", "attn2.to_v"), 0.2), folder / f"{seed}.safetensors")
    return [sf.load_adapter(Path(folder) / f"{seed}.safetensors") for seed in (1, 2)]


def test_runs_are_equal_to_the_bit_with_adapters_guiders_and_prompts_that_change(
    pipe: Graph, adapters: list[sf.Adapter]
) -> None:
    one, other = adapters
    two = {"prompt": ["a fox", "an owl"]}
    calls: list[dict[str, Any]] = [
        {"adapters": [one]},
        {**two, "adapters": [[one], [other]]},
        {**two, "adapters": [[one.during(0, 0.5)], []]},
        {"adapters": [one.along((0, 1), (1, 0.5))]},
        {"prompt": "[a fox:an owl:0.5]", "prompts": "a1111"},
        {"guider": "PerturbedAttentionGuidance"},
    ]

    def made() -> list[Tensor]:
        return [pipe(**{"prompt": "a fox", "seed": 1, "num_inference_steps": 2, **call}).latents for call in calls]

    with nothing_kept():
        expected = made()
    for call, found, plain in zip(calls, made(), expected, strict=True):
        assert torch.equal(found, plain), call


def test_a_run_with_adapters_and_one_without_share_forwards(pipe: Graph, adapters: list[sf.Adapter]) -> None:
    def side_by_side() -> list[Tensor]:
        call = {"num_inference_steps": 2, "seed": 1}
        runs = [pipe.stream(prompt="a fox", adapters=adapters[:1], **call), pipe.stream(prompt="an owl", **call)]
        sf.together(runs)
        return [run.outputs.latents for run in runs]

    with nothing_kept():
        expected = side_by_side()
    with counted(pipe.bindings["unet"].load()) as calls:
        assert all(map(torch.equal, side_by_side(), expected))
    assert set(calls.values()) <= {1}


def test_strengths_say_which_adapters_they_are_of(pipe: Graph, adapters: list[sf.Adapter]) -> None:
    """Else runs whose adapters take turns in one place beside another run would read each other's values."""
    from sfumato.components.adapters.runs import AdaptedRows, for_run, for_runs

    step, bare = schedule("sd", 2)[0], for_run(pipe.bindings["unet"].load())
    found: list[Any] = []
    for adapter in adapters:
        own = for_run(pipe.with_adapters(adapter).adapted_bindings["unet"].load())
        strengths = for_runs([own, bare]).strengths
        assert strengths is not None
        with strengths.chosen([AdaptedRows(own.adapted, step, 1), AdaptedRows(None, step, 1)]) as numbers:
            found.append(numbers)
    assert found[0][1:] == found[1][1:] and found[0] != found[1]
