"""How a pipeline runs: it loads what it needs, shares models, tells what happens, stops when asked, and never waits."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import sfumato as sf
from sfumato import Cancelled, Graph, InputError
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.graph.events import BlockFinished, BlockStarted, ComponentLoaded, Note, TurnFinished

from .support import EMBEDDED, counted, fresh, half, held, picture, run

GIVEN: dict[str, Any] = {"prompt": "a fish", "seed": 1, "num_inference_steps": 4}


# -------------------------------------------------------------------------------------------------------------- loading
def names(manager: sf.ComponentsManager) -> set[str]:
    return {row.class_name for row in manager.summary() if row.loaded}


def test_a_part_loads_what_it_needs_and_nothing_else() -> None:
    manager = fresh()
    pipe = sf.load(EMBEDDED, manager=manager)
    assert names(manager) == set()
    assert pipe.only("positive")(prompt="a fish").positive.tokens.shape == (1, 32, 128)
    assert names(manager) == {"CLIPTextModel", "CLIPTokenizer"}
    pipe.only("latents")(**GIVEN)
    assert names(manager) == {"CLIPTextModel", "CLIPTokenizer", "DDIMScheduler", "UNet2DConditionModel"}


def test_a_part_asks_for_no_more_than_it_needs(emoji: Graph) -> None:
    part = emoji.only("positive")
    assert list(part.inputs) == ["prompt", "clip_skip", "long_prompt", "prompts", "num_images_per_prompt"]
    assert list(part.components) == ["text_encoder", "tokenizer"]
    with pytest.raises(InputError, match=r"height"):
        part(prompt="a fish", height=64)


def test_a_run_that_is_given_a_value_does_not_make_it(emoji: Graph) -> None:
    latents = emoji.only("latents")(**GIVEN).latents
    part = emoji.only("positive", "negative")(prompt="a fish")
    with counted(emoji) as did:
        image = emoji(positive=part.positive, negative=part.negative, output_type="pt", seed=1, num_inference_steps=4)
    assert did.text_encoder == 0
    with torch.no_grad():
        vae = held(emoji, "vae")
        by_hand = vae.decode(vae.unscale(latents)).add(1).div(2).clamp(0, 1)
    assert torch.equal(image.images, by_hand)


def test_two_graphs_share_one_model() -> None:
    manager = fresh()
    one, other = (sf.load(EMBEDDED, task, manager=manager) for task in ("text2image", "inpaint"))
    assert held(one, "unet") is held(other, "unet")
    assert held(one.task("image2image"), "vae") is held(other, "vae")
    assert held(one, "unet") is not held(sf.load(EMBEDDED, manager=fresh()), "unet")


def test_a_dtype_is_loaded_as_asked() -> None:
    pipe = sf.load(EMBEDDED, dtype="bfloat16", manager=fresh())
    result = run(pipe, **GIVEN)
    assert held(pipe, "unet").dtype == torch.bfloat16
    assert result.latents.dtype == torch.float32  # the loop's arithmetic stays in float32
    assert (result.latents - run(sf.load(EMBEDDED), **GIVEN).latents).abs().mean() < 0.2


def test_debug_finds_every_port_as_its_type_says(emoji: Graph) -> None:
    with sf.debug():
        run(emoji, **GIVEN)
        run(emoji.task("image2image"), image=picture(), **GIVEN)
        run(emoji.task("inpaint"), image=picture(), mask_image=half(), **GIVEN)
        several = {**GIVEN, "prompt": ["a cat", "a fish"], "num_images_per_prompt": 2, "num_inference_steps": 2}
        run(emoji.task("inpaint"), image=picture(), mask_image=half(), **several)  # one picture, one mask, four rows


# --------------------------------------------------------------------------------------------------------------- events
def test_a_stream_tells_what_happens_and_where() -> None:
    stream = sf.load(EMBEDDED, manager=fresh()).stream(**GIVEN)
    events = list(stream)
    paths = [e.path for e in events if isinstance(e, BlockStarted)]
    prompts = ["positive", "rows", "match", "negative", "expand_positive", "expand_negative"]
    before = ["random", "keep_seed", "schedule", "noise", "start", "begin", "denoise.predict"]
    turn = ["denoise.guider", "denoise.advance"]
    assert paths == [*prompts, *before, *turn * 4, "end", "decode", "finish"]
    assert [e.path for e in events if isinstance(e, BlockFinished)] == paths
    loaded = [(e.path, e.name) for e in events if isinstance(e, ComponentLoaded)]
    assert loaded[:2] == [("positive", "text_encoder"), ("positive", "tokenizer")]
    assert ("decode", "vae") in loaded
    turns = [(e.turn, e.turns, e.path) for e in events if isinstance(e, TurnFinished)]
    assert turns == [(k, 4, "denoise") for k in (1, 2, 3, 4)]
    assert stream.outputs.images[0].size == (64, 64)


def test_each_turn_hands_out_its_latents(emoji: Graph) -> None:
    values = [e.values["latents"] for e in emoji.stream(**GIVEN) if isinstance(e, TurnFinished)]
    assert torch.equal(values[-1], run(emoji, **GIVEN).latents)
    assert not torch.equal(values[0], values[1])


def test_what_is_given_but_not_used_is_a_note(emoji: Graph) -> None:
    events = emoji.stream(guider="none", negative_prompt="blue", **GIVEN)
    assert [e.text for e in events if isinstance(e, Note)] == [
        "'negative_prompt' is not used with guider: nothing in this run reads it."
    ]


# --------------------------------------------------------------------------------------------------------------- cancel
@pytest.mark.parametrize("after", [1, 3])
def test_a_cancelled_run_stops_before_its_next_pass(emoji: Graph, after: int) -> None:
    stream = emoji.stream(**{**GIVEN, "num_inference_steps": 20})
    with counted(emoji) as did:
        assert next(e.turn for e in stream if isinstance(e, TurnFinished) and e.turn == after)
        stream.cancel()
        with pytest.raises(Cancelled, match=r"cancelled before denoise\."):
            next(stream)
    assert (did.unet, did.decode) == (after, 0)


def test_cancelling_between_two_passes_of_a_turn(emoji: Graph) -> None:
    pipe = emoji.replace("denoise.predict", PredictNoise(batching="apart"))
    stream = pipe.stream(**GIVEN)

    def cancel(*_: object) -> None:
        stream.cancel()

    hook = held(pipe, "unet").register_forward_hook(cancel)
    try:
        with counted(pipe) as did, pytest.raises(Cancelled, match=r"in denoise.guider"):
            stream.result()
    finally:
        hook.remove()
    assert did.unet == 1


def test_cancelling_before_anything_ran(emoji: Graph) -> None:
    stream = emoji.stream(**GIVEN)
    stream.cancel()
    with counted(emoji) as did, pytest.raises(Cancelled, match=r"before positive"):
        stream.result()
    assert did.all == 0


# --------------------------------------------------------------------------------------------------------- the hot loop
class Reads(TorchDispatchMode):
    """Counts operations that make the host wait for the device."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_to_copy.device")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # whatever the operation gives
        name = func._schema.name.removeprefix("aten::")
        if name in self.NAMES:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "euler_a", "ddpm"])
@pytest.mark.parametrize("task", ["text2image", "inpaint"])
def test_no_turn_waits_for_the_device(emoji: Graph, task: str, scheduler: str) -> None:
    more = {"image": picture(), "mask_image": half()} if task == "inpaint" else {}
    stream = emoji.task(task).stream(scheduler=scheduler, guidance_rescale=0.5, **more, **GIVEN)
    turns = 0
    with Reads() as reads:
        for event in stream:
            if isinstance(event, BlockFinished) and event.path == "start":
                reads.found.clear()
            if isinstance(event, TurnFinished):
                turns += 1
                assert dict(reads.found) == {}
    assert turns == 4


def test_the_count_of_waits_would_see_one() -> None:
    with Reads() as reads:
        float(torch.ones(1).sum())
    assert reads.found == {"_local_scalar_dense": 1}


def test_the_task_auto_is_what_the_names_of_a_call_say() -> None:
    pipe = sf.load("emoji", task="auto")
    few: dict[str, Any] = {"seed": 1, "num_inference_steps": 2}
    source = pipe("a fox", **few).images[0]
    same_source = sf.load("emoji")("a fox", **few).images[0]
    assert source.tobytes() == same_source.tobytes()
    changed = pipe("a fox", image=source, strength=0.5, **few).images[0]
    assert changed.tobytes() == pipe.task("image2image")("a fox", image=source, strength=0.5, **few).images[0].tobytes()
    unguided = pipe.replace("denoise.guider", sf.guiders.NoGuidance())
    kept = unguided("a fox", image=source, mask_image=Image.new("L", (64, 64)), **few).images[0]
    assert kept.size == (64, 64), "what was swapped stays so in the sister"
    with pytest.raises(sf.InputError, match=r"imge  no such input\. Did you mean"):
        pipe("a fox", imge=source)
