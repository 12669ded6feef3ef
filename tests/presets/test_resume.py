"""`sf.resume` with models: every scheduler and family goes on to the same bits, branches call the denoiser as often as
steps are left, and a process that is killed goes on in another one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sfumato as sf
from sfumato.blocks.denoise.advance import AdvanceLatents
from sfumato.blocks.latents.start import CutSchedule, DrawNoise, DrawNoiseLike, MakeSchedule, NoiseImage, SeedRandom
from sfumato.components.manager import ComponentsManager
from sfumato.components.schedulers.schedule import Step
from sfumato.components.types import ImageLatents, Latents, Prediction, Rows, Steps
from sfumato.graph import Block, Graph
from sfumato.graph.events import BlockFinished, BlockStarted, ComponentLoaded, TurnFinished
from sfumato.registry import schedulers

from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .sdxl import xl as xl
from .sdxl import xl_checkpoint as xl_checkpoint
from .test_composition import PRESETS
from .test_composition import pixart as pixart
from .test_composition import refined as refined
from .test_pixart import folder as folder


def flush_nothing(handle: int) -> None: ...


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of crashes flush; here it would only wait for the disk."""
    monkeypatch.setattr(os, "fsync", flush_nothing)


FOX: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 12}


def stopped(graph: Graph, turn: int, inputs: dict[str, Any], loop: str = "denoise", **more: Any) -> sf.RunState:
    """The state of a run after a turn of a loop."""
    run = graph.stream(**inputs, **more)
    next(e for e in run if isinstance(e, TurnFinished) and (e.path, e.turn) == (loop, turn))
    return run.pause()


def pixels(run: sf.Run | sf.Outputs) -> bytes:
    outputs = run.result() if isinstance(run, sf.Run) else run
    return np.asarray(outputs.images[0]).tobytes()


# ------------------------------------------------------------------------------------------------ every scheduler
class Noise(NamedTuple):
    latents: Latents
    steps: Steps


class Predicted(NamedTuple):
    prediction: Prediction


class Begin(Block):
    """The first latents, without a model."""

    def __call__(self, latents: Latents, steps: Steps) -> Noise:
        return Noise(latents * steps.noise_scale, steps)


class Predict(Block):
    """A prediction that depends on the latents and the step."""

    def __call__(self, latents: Latents, step: Step) -> Predicted:
        return Predicted(torch.tanh(latents * step.scale_in) * 0.7 + 0.01 * float(step.timestep) / 1000)


def of_scheduler(name: str) -> Graph:
    turn = Graph(predict=Predict(), advance=AdvanceLatents())
    graph = Graph(
        random=SeedRandom(),
        noise=DrawNoise(channels=2, height=32, width=32),
        schedule=MakeSchedule(num_inference_steps=12),
        begin=Begin(),
        denoise=sf.Loop(over="steps", each="step", carry=("latents", "random"), body=turn),
        outputs=["latents"],
    )
    return graph.bind(scheduler=schedulers[name]())


@pytest.mark.parametrize("name", list(schedulers))
def test_a_saved_run_goes_on_to_the_same_bits_with_every_scheduler(name: str, tmp_path: Path) -> None:
    graph, given = of_scheduler(name), {"seed": 3, "rows": Rows(1, 1)}
    run = graph.stream(**given)
    try:
        count = sum(isinstance(event, TurnFinished) for event in run)
    except sf.ConfigError as error:
        pytest.skip(f"it has no 12 steps here: {error}")
    turn = min(7, count - 1)
    state = stopped(graph, turn, given)
    for back in (sf.resume(state), sf.resume(run.state.at(turn)), sf.resume(state.save(tmp_path / "state"))):
        turns = sum(isinstance(event, TurnFinished) for event in back)
        assert turns == count - turn
        assert torch.equal(back.outputs.latents, run.outputs.latents)


# ------------------------------------------------------------------------------------------------ every family
FAMILIES = ("sd inpaint", "sdxl refined", "sdxl text2image, distilled", "flux text2image", "flux kontext",
            "sd3 text2image", "pixart text2image")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_run_goes_on_to_the_same_bits_in_every_family(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    preset = PRESETS[name]
    pipe: Graph = request.getfixturevalue(preset.fixture)(preset.checkpoint, preset.task)
    given = {"prompt": "a cat", "seed": 0, "num_inference_steps": 5, **preset.inputs}
    whole = pipe.stream(**given)
    turns = [event for event in whole if isinstance(event, TurnFinished)]
    loop, turn = turns[-2].path, turns[-2].turn
    folders = list({str(h.spec.location.path.parent) for h in pipe.bindings.values() if hasattr(h, "spec")} - {"."})
    state = stopped(pipe, turn, given, loop)
    saved = state.save(tmp_path / "state")
    for back in (sf.resume(state), sf.resume(saved, access=sf.Access(folders=folders))):
        assert pixels(back) == pixels(whole.outputs)


# ------------------------------------------------------------------------------------------------ another process
CHILD = """
import os, signal, sys
import sfumato as sf
run = sf.load("emoji").stream(prompt="a fox", seed=7, num_inference_steps=12, scheduler="euler_a")
for event in run:
    if isinstance(event, sf.events.TurnFinished):
        run.state.save(sys.argv[1])
        if event.turn == 7:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_is_killed_goes_on_in_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", CHILD, str(folder)], env=env, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    run = sf.resume(folder)
    assert sum(isinstance(event, TurnFinished) for event in run) == 5
    assert pixels(run.outputs) == pixels(sf.load("emoji")(**FOX, scheduler="euler_a"))


# ------------------------------------------------------------------------------------------------ branches
@pytest.fixture
def counted() -> Iterator[tuple[Graph, dict[str, int]]]:
    """The embedded pipeline with models of its own, and the number of calls of each model."""
    pipe = sf.load("emoji", manager=ComponentsManager())
    calls: dict[str, int] = {}
    hooks: list[Any] = []
    layers = {"text_encoder": "text_model.final_layer_norm", "unet": "conv_in", "vae": "decoder.conv_in"}
    for name, layer in layers.items():

        def count(*_: object, name: str = name) -> None:
            calls[name] = calls.get(name, 0) + 1

        hooks.append(pipe.bindings[name].load().get_submodule(layer).register_forward_pre_hook(count))
    yield pipe, calls
    for hook in hooks:
        hook.remove()


def test_a_branch_calls_the_denoiser_as_often_as_steps_are_left(counted: tuple[Graph, dict[str, int]]) -> None:
    pipe, calls = counted
    run = pipe.stream(**FOX)
    run.result()
    branches: list[tuple[int, dict[str, Any], int]] = [
        (7, {}, 0), (10, {"prompt": "a cat"}, 2), (11, {"guider": "none"}, 0), (9, {"scheduler": "euler"}, 1),
        (11, {"guidance_scale": 2.0}, 0), (11, {"negative_prompt": "red"}, 2),
    ]  # fmt: skip
    for k, changes, encoded in branches:
        calls.clear()
        picture = pixels(sf.resume(run.state.at(step=k), **changes))
        assert calls.get("unet") == 12 - k and calls.get("text_encoder", 0) == encoded and calls["vae"] == 1
        assert (picture == pixels(run.outputs)) == (not changes)


def test_a_branch_is_what_a_call_makes_of_its_steps(emoji: Graph) -> None:
    """Another prompt from step 5 on is the plain run of a prompt that changes there."""
    run = emoji.stream(**FOX)
    run.result()
    branch = sf.resume(run.state.at(step=5), prompt="a cat", output_type="np").result()
    changing = emoji(**{**FOX, "prompt": "[a fox:a cat:5]"}, prompts="a1111", output_type="np")
    assert np.abs(branch.images - changing.images).max() < 1e-5


def test_another_scheduler_takes_the_latents_at_their_noise_level(emoji: Graph) -> None:
    """Latents of DDIM and of Euler differ by a factor: both solve one equation, and step 5 to 12 of one is that of the
    other."""
    keys = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    ddim = emoji.using(scheduler="DDIMScheduler").using(scheduler=keys)
    run = ddim.stream(**FOX)
    run.result()
    changed = np.asarray(sf.resume(run.state.at(step=5), scheduler="euler").result().images[0], np.float32)
    plain = np.asarray(run.outputs.images[0], np.float32)
    assert np.abs(changed - plain).max() <= 2, "steps of DDIM are steps of Euler"


def test_a_scheduler_whose_levels_are_others_is_refused(emoji: Graph) -> None:
    state = stopped(emoji, 5, FOX)
    changed: list[dict[str, Any]] = [{"scheduler": "dpmpp_2m_karras"}, {"num_inference_steps": 17}]
    for changes in changed:
        with pytest.raises(
            sf.InputError, match=r"^denoise  has done 5 steps, to the noise level [\d.]+ \(sigma / alpha\)"
        ):
            sf.resume(state, **changes).result()
    assert sf.resume(state.at(step=0), scheduler="dpmpp_2m_karras").result().images


def test_adapters_of_a_run_are_in_its_file_and_their_strengths_change(emoji: Graph, tmp_path: Path) -> None:
    layers = {n: m for n, m in emoji.bindings["unet"].load().named_modules() if n.endswith("to_v")}
    generator = torch.Generator().manual_seed(0)
    tensors = {f"unet.{n}.lora_A.weight": torch.randn(2, m.in_features, generator=generator) for n, m in layers.items()}
    tensors |= {
        f"unet.{n}.lora_B.weight": torch.randn(m.out_features, 2, generator=generator) for n, m in layers.items()
    }
    save_file(tensors, tmp_path / "style.safetensors")
    style = sf.load_adapter(tmp_path / "style.safetensors")
    state = stopped(emoji, 2, {**FOX, "num_inference_steps": 4}, adapters=[style])
    saved = state.save(tmp_path / "state")
    want = pixels(sf.resume(state))
    assert pixels(sf.resume(saved)) == want == pixels(emoji(**{**FOX, "num_inference_steps": 4}, adapters=[style]))
    without = pixels(sf.resume(state, adapters={style.name: 0.0}))
    assert without == pixels(sf.resume(saved, adapters={style.name: 0.0})) != want
    plain = stopped(emoji, 2, {**FOX, "num_inference_steps": 4})
    assert pixels(sf.resume(plain, adapters=[style])) not in (want, without)


def test_a_component_that_a_file_cannot_name_is_passed_again(emoji: Graph, tmp_path: Path) -> None:
    own = emoji.bind(
        unet=sf.models.UNet2DConditionModel.from_pretrained(emoji.bindings["unet"].spec.location.path / "unet")
    )
    given = {**FOX, "num_inference_steps": 3}
    saved = stopped(own, 2, given).save(tmp_path / "state")
    assert sum(file.stat().st_size for file in saved.iterdir()) < 200_000, "no weights"
    with pytest.raises(
        sf.LoadError, match=r"was saved without unet \(UNet2DConditionModel\)\. Pass it again: .*unet=…"
    ):
        sf.resume(saved)
    assert pixels(sf.resume(saved, unet=own.bindings["unet"])) == pixels(own(**given))


# ------------------------------------------------------------------------------------------------ hires, inpainting
class Enlarged(NamedTuple):
    image_latents: ImageLatents


class Enlarge(Block):
    def __call__(self, latents: Latents) -> Enlarged:
        return Enlarged(torch.nn.functional.interpolate(latents, scale_factor=2.0))


def test_a_second_loop_goes_on_and_takes_another_prompt_without_the_first(
    counted: tuple[Graph, dict[str, int]],
) -> None:
    pipe, calls = counted
    second = Graph(enlarge=Enlarge(), cut=CutSchedule(strength=0.5), noise=DrawNoiseLike(), start=NoiseImage(),
                   denoise=pipe["denoise"], outputs=("latents",))  # fmt: skip
    hires = pipe.insert("second", second, after="denoise")
    given = {**FOX, "num_inference_steps": 6, "height": 32, "width": 32, "strength": 0.5}
    want = pixels(hires(**given))
    state = stopped(hires, 1, given, "second.denoise")
    changed: list[dict[str, Any]] = [{}, {"prompt": "a cat"}, {"guider": "none"}, {"guidance_scale": 1.5}]
    for changes in changed:
        calls.clear()
        assert (pixels(sf.resume(state, **changes)) == want) == (not changes)
        assert calls["unet"] == 2
    with pytest.raises(sf.InputError, match=r"^scheduler  cannot change inside second.denoise"):
        sf.resume(state, scheduler="euler")


# ------------------------------------------------------------------------------------------------ finishing now
def test_finish_now_decodes_the_clean_picture_that_the_last_step_points_to(emoji: Graph) -> None:
    """It is nearer to the picture of all steps than the noisy latents are, and has no noise outside a mask."""
    whole = emoji.only("latents")(**FOX).latents
    run = emoji.only("latents").stream(**FOX)
    next(event for event in run if isinstance(event, TurnFinished) and event.turn == 7)
    noisy = run.state.reached.turns["denoise"][1]["latents"]
    run.finish_now()
    early = run.result().latents
    assert (early - whole).abs().mean() < 0.5 * (noisy - whole).abs().mean()
    assert len(emoji.start(**FOX).result().images) == 1


def test_finish_now_keeps_the_picture_outside_the_mask(emoji: Graph) -> None:
    inpaint = emoji.task("inpaint").only("latents")
    preset = PRESETS["sd inpaint"].inputs
    pictures = {name: preset[name].resize((64, 64)) for name in ("image", "mask_image")}
    given = {**FOX, **pictures, "strength": 1.0}
    whole = inpaint(**given).latents
    run = inpaint.stream(**given)
    next(event for event in run if isinstance(event, TurnFinished) and event.turn == 5)
    run.finish_now()
    far = (run.result().latents - whole).abs().mean(1)[0]
    assert (far < 1e-5).float().mean() > 0.3, "the kept part is that of the whole run"


# ------------------------------------------------------------------------------------------------ stopped anywhere
@pytest.mark.parametrize("how", ["cancel", "pause", "finish_now"])
@pytest.mark.parametrize("place", ["load", "encode", "loop", "decode"])
def test_a_run_stops_within_one_block_or_step_wherever_it_is(how: str, place: str) -> None:
    manager = ComponentsManager()
    pipe = sf.load("emoji", manager=manager)
    wanted: dict[str, Callable[[Any], bool]] = {
        "load": lambda e: isinstance(e, ComponentLoaded),
        "encode": lambda e: isinstance(e, BlockStarted) and e.path == "positive",
        "loop": lambda e: isinstance(e, TurnFinished) and e.turn == 2,
        "decode": lambda e: isinstance(e, BlockStarted) and e.path == "decode",
    }
    after: list[str] = []
    reached = False

    def listen(event: Any) -> None:
        nonlocal reached
        if reached and isinstance(event, BlockFinished):
            after.append(event.path)
        if not reached and wanted[place](event):
            reached = True
            getattr(run, how)()

    run = pipe.stream(**FOX, on_event=listen).start()
    if how == "finish_now":
        assert run.result().images[0].size == (64, 64)
        assert after.count("denoise.advance") <= 1
    else:
        with pytest.raises(sf.Paused if how == "pause" else sf.Cancelled):
            run.result()
        assert len(after) <= (1 if place != "loop" else 3), "one block, or the blocks of one step"
        if how == "pause":
            assert pixels(sf.resume(run.state)) == pixels(pipe(**FOX))
    for thread in threading.enumerate():
        if thread.name == "sfumato run":
            thread.join(10)
            assert not thread.is_alive()
    assert not manager._memory.leases.active()


# ------------------------------------------------------------------------------------------------ from strangers
def test_a_broken_folder_is_refused_with_a_reason(emoji: Graph, tmp_path: Path) -> None:
    saved = stopped(emoji, 1, {**FOX, "num_inference_steps": 2}).save(tmp_path / "state")
    good = {name: (saved / name).read_bytes() for name in ("state.json", "values.safetensors")}
    for name, data, reason in (
        ("state.json", b"{", "is not JSON"), ("state.json", b"{}", "KeyError: 'format'"),
        ("state.json", b'{"format": "other"}', "is of the format 'other', and 'sfumato run state 1' is read"),
        ("values.safetensors", good["values.safetensors"][:-1], "cannot be read"),
        ("values.safetensors", sf.save_values(tmp_path / "v", x=1).read_bytes(), "its form is 'sfumato values 1'"),
    ):  # fmt: skip
        (saved / name).write_bytes(data)
        with pytest.raises(sf.LoadError, match="its state of a run cannot be read: ") as error:
            sf.resume(saved)
        assert reason in str(error.value)
        (saved / name).write_bytes(good[name])
    (saved / "state.json").unlink()
    for place in (saved, tmp_path / "gone", "emoji"):
        with pytest.raises(
            sf.LoadError, match=r"has no state of a run \(state.json\). state.save\(folder\) writes one"
        ):
            sf.resume(place)
    with pytest.raises(sf.ConfigError, match=r"^device: goes with a folder\. The state has its components"):
        sf.resume(stopped(emoji, 1, {**FOX, "num_inference_steps": 2}), device="cpu")
