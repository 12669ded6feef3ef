"""From one task to another, and which task a call means."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph, InputError, LoadError, WireError
from sfumato.blocks.denoise.extra_inputs import AddControlChannels
from sfumato.graph.tasks import graph_for
from sfumato.presets.control import with_cropped_controls

from .control import Net, Nets, controlled
from .control import nets as nets
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sdxl import xl as xl
from .sdxl import xl_checkpoint as xl_checkpoint
from .support import Reference, half, picture, run

Tiny = Callable[..., Graph]
GIVEN: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 2, "seed": 1, "height": 64, "width": 64}


# ------------------------------------------------------------------------------------------------------- which is meant
def test_a_task_whose_components_are_not_there_is_not_chosen_unasked() -> None:
    xl = sf.load("sdxl")
    assert graph_for(xl, {"prompt", "image"}).preset == ("sdxl", "image2image")
    assert graph_for(xl, {"prompt", "aesthetic_score"}).preset == ("sdxl", "text2image")
    assert graph_for(xl, {"prompt", "aesthetic_score", "refiner"}).preset == ("sdxl", "refined")
    with pytest.raises(InputError, match=r"aesthetic_score  is no input of text2image. Write pipe.task\('refined'\)"):
        xl(prompt="a fish", aesthetic_score=6.0)
    with pytest.raises(InputError, match=r"aesthetic_score  is no input of text2image. Write pipe.task\('refined'\)"):
        sf.load("sdxl", task="auto")(prompt="a fish", aesthetic_score=6.0)


# --------------------------------------------------------------------------------------------------- which are served
ALONE = r"reads 9 channels: latents, a mask, and the picture around the mask\. Use the task 'inpaint', the only one"


def test_a_u_net_that_was_trained_to_inpaint_serves_that_task_alone(
    checkpoint: Callable[[str], Path], xl_checkpoint: Callable[..., Path]
) -> None:
    for folder in (checkpoint("sd-inpainting"), xl_checkpoint("inpainting")):
        for task in ("text2image", "image2image"):
            with pytest.raises(LoadError, match=rf"The task '{task}': The U-Net {ALONE}"):
                sf.load(folder, task)
        assert sf.inspect(folder).tasks == ("inpaint",) and not sf.inspect(folder).missing
        pipe = sf.load(folder, "inpaint")
        with pytest.raises(WireError, match=rf"text2image  The U-Net {ALONE}"):
            pipe.task("text2image")
        assert sf.inspect(pipe).tasks == ("inpaint",)


def test_the_task_of_a_call_is_one_that_is_served(checkpoint: Callable[[str], Path]) -> None:
    pipe = sf.load(checkpoint("sd-inpainting"), "auto")
    with pytest.raises(InputError, match="mask_image"):
        pipe(prompt="a fish", image=picture())
    given = {**GIVEN, "image": picture(), "mask_image": half()}
    assert pipe.only("latents")(**given).latents.isfinite().all()


def test_a_u_net_that_is_passed_must_serve_the_task(checkpoint: Callable[[str], Path]) -> None:
    net = sf.load_component(checkpoint("sd-inpainting"), subfolder="unet")
    with pytest.raises(LoadError, match=ALONE):
        sf.load(checkpoint("sd"), unet=net)
    assert sf.load(checkpoint("sd"), "inpaint", unet=net).preset == ("sd", "inpaint")


def test_a_u_net_that_reads_other_channels_serves_no_task(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    copytree(checkpoint("sd"), tmp_path / "ip2p")
    config = tmp_path / "ip2p/unet/config.json"
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 8'))
    with pytest.raises(LoadError, match=r"reads 8 channels, and the latents have 4\. No task adds the others\."):
        sf.load(tmp_path / "ip2p")
    assert sf.inspect(tmp_path / "ip2p").tasks == ()
    with pytest.raises(WireError, match=r"no block adds the others\. Insert a block that adds them"):
        sf.load(tmp_path / "ip2p", graph=sf.load("sd"))
    graph = sf.load("sd").insert("add", AddControlChannels(), after="denoise.predict")
    assert sf.load(tmp_path / "ip2p", graph=graph).bindings.keys() >= {"unet"}


# ------------------------------------------------------------------------------------------------- what is carried over
def test_what_a_task_has_no_block_for_is_there_for_the_next(flux: Callable[..., Graph]) -> None:
    """Redux reads no words, so that its graph holds no text encoder."""
    plain = flux("dev")
    assert plain.task("redux").task("image2image") == plain.task("image2image")
    loaded = flux("dev", "redux")
    assert "text_encoder" in loaded.bindings and "text_encoder" not in loaded.components
    assert loaded.task("text2image").with_bindings(plain.bindings) == plain
    small: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 1, "prompt": "a fish"}
    assert loaded.task("text2image").only("latents")(**small).latents.isfinite().all()


def test_components_for_other_tasks_are_bindings_like_others(flux: Callable[..., Graph]) -> None:
    redux = flux("dev").task("redux")
    other = redux.with_bindings({**redux.bindings, "text_encoder": object()})
    assert redux != other and redux.diff(other).components == ("text_encoder",)
    assert "text_encoder" not in redux.only("latents").bindings


def test_components_for_other_tasks_survive_a_graph_file(flux: Callable[..., Graph], tmp_path: Path) -> None:
    redux = flux("dev", "redux")
    redux.save(tmp_path)
    folders = {value.spec.pretrained_model_name_or_path for value in redux.bindings.values() if value is not None}
    loaded = sf.load(tmp_path, access=sf.Access(folders=tuple(sorted(folders))))
    assert loaded == redux
    assert loaded.task("text2image").bindings["text_encoder"] == redux.bindings["text_encoder"]
    assert not loaded.task("text2image").check()


def test_a_block_that_was_taken_out_is_not_in_another_task(tiny: Tiny, nets: Nets, unet: Any) -> None:
    net = nets.control(unet).ours
    pipe = sf.load("sd", controlnet=net, **tiny("sd").bindings)
    assert "controlnet" in pipe.task("image2image").components
    other = pipe.remove("denoise.control").task("image2image")
    assert other.bindings["controlnet"] is net and "controlnet" not in other.components
    assert other == tiny("sd", "image2image").with_bindings(other.bindings)


def test_blocks_that_were_taken_out_together_go_in_an_order_that_works(emoji: Graph) -> None:
    without = emoji.replace("denoise.guider", sf.guiders.NoGuidance())
    for name in ("expand_negative", "negative", "match"):
        without = without.remove(name)
    other = without.task("inpaint")
    assert {"expand_negative", "negative", "match"}.isdisjoint(other.nodes)
    assert "negative_prompt" not in other.inputs
    assert other.task("text2image") == without


def test_a_part_that_asks_for_an_image_says_which_task_gives_it_without() -> None:
    """SDXL is told how large the picture is, which an image task knows from its image."""
    told = (
        r"image .* pipe.task\('text2image'\).only\('positive'\) gives the same without it, from: prompt.* height, width"
    )
    with pytest.raises(InputError, match=told):
        sf.load("sdxl", task="inpaint").only("positive")(prompt="a fish")
    with pytest.raises(InputError) as caught:
        sf.load("sdxl", task="inpaint")(prompt="a fish")
    assert "gives the same" not in str(caught.value)


def test_both_tasks_say_the_same_of_a_prompt(xl: Callable[..., Graph]) -> None:
    given: dict[str, Any] = {"prompt": "a fish"}
    pipe = xl()
    plain = pipe.only("positive")(**given, height=32, width=48).positive
    image = pipe.task("image2image").only("positive")(**given, image=picture(1, 32, 48)).positive
    assert torch.equal(plain.tokens, image.tokens)
    assert torch.equal(plain.time_ids, image.time_ids)


# ------------------------------------------------------------------------------------------- nets that a load is given
@pytest.fixture(scope="module")
def unet(tiny_reference: Callable[[str], Reference]) -> Any:
    return tiny_reference("sd").pipe.unet


@pytest.fixture(scope="module")
def net(nets: Nets, unet: Any) -> Net:
    return nets.control(unet)


@pytest.mark.parametrize("task", ["text2image", "inpaint"])
def test_a_load_with_a_control_net_puts_its_block_in(
    tiny: Tiny, checkpoint: Callable[[str], Path], net: Net, task: str
) -> None:
    """As from_pretrained(folder, controlnet=net) of diffusers. To inpaint, its picture is cropped too."""
    pipe = sf.load(checkpoint("sd"), task, controlnet=net.ours)
    assert pipe == with_cropped_controls(controlled(tiny("sd", task))).bind(controlnet=net.ours)


def test_several_nets_are_numbered(checkpoint: Callable[[str], Path], net: Net, nets: Nets) -> None:
    pipe = sf.load(
        checkpoint("sd"),
        controlnet=net.ours,
        controlnet_1=net.ours,
        adapter=nets.adapter(channels=(16, 32), num_res_blocks=1).ours,
    )
    pictures = {name: picture(k) for k, name in enumerate(("control_image", "control_image_1", "adapter_image"))}
    assert torch.isfinite(run(pipe, **pictures, **GIVEN).latents).all()


def test_a_net_for_a_graph_without_its_block_is_refused_with_the_call_that_puts_it_in(tiny: Tiny, net: Net) -> None:
    told = r"Load it with the pipeline: sf.load\(…, controlnet=net\). Or insert its block first: pipe.insert\('control'"
    for take in (tiny("sd").bind, tiny("sd").using):
        with pytest.raises(WireError, match=told):
            take(controlnet=net.ours)
    with pytest.raises(InputError, match=told):
        tiny("sd")(prompt="a fish", controlnet=net.ours)
