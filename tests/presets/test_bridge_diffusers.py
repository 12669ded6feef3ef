"""The bridge to diffusers: its blocks in our graphs, and our pipelines and models as objects of diffusers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato import ConfigError, Graph
from sfumato.blocks.control.taps import ApplyTap
from sfumato.graph.files.writing import blocks_without_source

from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import picture, quiet, run
from .test_adapters import diffusers_file

Load = Callable[..., Graph]


class Fields(NamedTuple):
    denoiser_input_fields: Mapping[str, Any]


class GatherFields(sf.Block):
    """Gathers what the denoiser of diffusers finds by `kwargs_type`."""

    def __call__(self, prompt_embeds: Any, pooled_prompt_embeds: Any) -> Fields:
        return Fields({"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds})


def blocks_of_diffusers(diffusers: Any) -> Any:
    """A class that `diffusers_block` can wrap, with one of every kind of port."""
    modular: Any = __import__("diffusers.modular_pipelines", fromlist=["InputParam"])

    class Shift(modular.ModularPipelineBlocks):
        model_name = "stable-diffusion-xl"

        @property
        def description(self) -> str:
            return "Adds a number to the latents."

        @property
        def expected_components(self) -> list[Any]:
            return [
                modular.ComponentSpec("scheduler", diffusers.EulerDiscreteScheduler),
                modular.ComponentSpec(
                    "guider",
                    diffusers.ClassifierFreeGuidance,
                    config=diffusers.configuration_utils.FrozenDict({"guidance_scale": 2.5}),
                    default_creation_method="from_config",
                ),
            ]

        @property
        def expected_configs(self) -> list[Any]:
            return [modular.ConfigSpec("negate", False)]

        @property
        def inputs(self) -> list[Any]:
            return [
                modular.InputParam("latents", type_hint=torch.Tensor, required=True),
                modular.InputParam("by", type_hint=float, default=1.0),
                modular.InputParam(kwargs_type="denoiser_input_fields"),
            ]

        @property
        def intermediate_outputs(self) -> list[Any]:
            return [modular.OutputParam("latents", type_hint=torch.Tensor), modular.OutputParam("seen")]

        def __call__(self, components: Any, state: Any) -> Any:
            own = self.get_block_state(state)
            sign = -1 if components.config.negate else 1
            own.latents = own.latents + sign * own.by * components.guider.guidance_scale
            own.seen = sorted(own.denoiser_input_fields)
            self.set_block_state(state, own)
            return components, state

    return Shift()


def test_a_block_has_the_ports_that_it_declares(diffusers: Any) -> None:
    block = sf.bridge.diffusers_block(blocks_of_diffusers(diffusers))
    assert {name: str(port) for name, port in block.signature.inputs.items()} == {
        "latents": "Tensor",
        "by": "float | None = 1.0",
        "denoiser_input_fields": "Mapping[str, Any] = {}",
    }
    assert [*block.signature.outputs] == ["latents", "seen"]
    assert {name: part.required for name, part in block.signature.components.items()} == {
        "scheduler": True,
        "guider": False,
    }
    assert block.config() == {"negate": False}


def test_a_block_runs_with_its_components_configs_and_groups_of_inputs(diffusers: Any) -> None:
    block = sf.bridge.diffusers_block(blocks_of_diffusers(diffusers))
    graph = Graph(gather=GatherFields(), shift=block).bind(scheduler=diffusers.EulerDiscreteScheduler())
    values = {"latents": torch.zeros(1), "prompt_embeds": 1, "pooled_prompt_embeds": 2}
    out = graph(**values)
    assert out.latents.tolist() == [2.5]
    assert out.seen == ["pooled_prompt_embeds", "prompt_embeds"]
    turned = graph.replace("shift", block.with_(negate=True)).bind(guider=diffusers.ClassifierFreeGuidance(3.0))
    assert turned(**values, by=2.0).latents.tolist() == [-6.0]


def test_their_decoder_draws_our_picture(diffusers: Any, emoji: Graph) -> None:
    steps: Any = __import__("diffusers.modular_pipelines.stable_diffusion_xl.decoders", fromlist=["decoders"])
    decode = sf.bridge.diffusers_block(steps.StableDiffusionXLDecodeStep())
    theirs = Graph(decode=sf.named(decode, vae="their_vae"))
    theirs = theirs.bind(their_vae=sf.bridge.to_diffusers(emoji.bindings["vae"]))
    latents = emoji.only("latents")("a red apple", seed=3, num_inference_steps=2).latents
    ours = np.asarray(emoji("a red apple", seed=3, num_inference_steps=2).images[0], np.int16)
    assert abs(np.asarray(theirs(latents=latents).images[0], np.int16) - ours).max() <= 1


@pytest.mark.parametrize(
    ("family", "task"),
    [(family, "text2image") for family in ("emoji", "xl", "sd3", "flux")] + [("emoji", "image2image")],
)
def test_a_pipeline_draws_there_what_it_draws_here(
    diffusers: Any, request: pytest.FixtureRequest, family: str, task: str
) -> None:
    loaded = request.getfixturevalue(family)
    pipe: Graph = (loaded if isinstance(loaded, Graph) else loaded()).task(task)
    inputs: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 3, "guidance_scale": 3.0}
    if task == "image2image":
        inputs |= {"image": picture(), "strength": 0.7}
    elif "height" in pipe.inputs:
        inputs |= {"height": 64, "width": 64}
    with quiet():
        theirs = sf.bridge.to_diffusers(pipe)
        theirs.set_progress_bar_config(disable=True)
        wanted = theirs(**inputs, generator=torch.Generator("cpu").manual_seed(7), output_type="np").images
    assert ("Img2Img" in type(theirs).__name__) == (task == "image2image")
    assert abs(run(pipe, **inputs, seed=7).images - wanted).max() < 0.05 / 255


def test_weights_are_copied(diffusers: Any, emoji: Graph) -> None:
    ours = emoji.bindings["vae"].load()
    theirs = sf.bridge.to_diffusers(ours)
    before = ours.decoder.conv_in.weight.clone()
    with torch.no_grad():
        theirs.decoder.conv_in.weight.zero_()
    assert torch.equal(ours.decoder.conv_in.weight, before)


def test_the_adapters_of_a_component_are_merged_into_the_copy(diffusers: Any, emoji: Graph, tmp_path: Path) -> None:
    """As a binding, and as the view that it loads. The weights of a view are those without patches."""
    diffusers_file(emoji, file := tmp_path / "style.safetensors")
    adapted = emoji.with_adapters(sf.load_adapter(file)).adapted_bindings["unet"]
    wanted = emoji.with_adapters(sf.load_adapter(file)).merged().bindings["unet"].state_dict()
    for ours in (adapted, adapted.load()):
        made = sf.bridge.to_diffusers(ours).state_dict()
        assert all(torch.equal(made[name], tensor) for name, tensor in wanted.items())
    plain = emoji.bindings["unet"].load().state_dict()
    assert not all(torch.equal(plain[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("value", [3, "unet"])
def test_other_objects_are_refused(diffusers: Any, value: object) -> None:
    with pytest.raises(ConfigError, match=f"needs an object of ModularPipelineBlocks, got {value!r}"):
        sf.bridge.diffusers_block(value)
    with pytest.raises(ConfigError, match=f"diffusers has no class for {value!r}"):
        sf.bridge.to_diffusers(value)


def test_graphs_without_a_pipeline_there_are_refused(diffusers: Any, emoji: Graph) -> None:
    with pytest.raises(ConfigError, match="Choose the guider"):
        sf.bridge.to_diffusers(emoji.using(guider="AdaptiveProjectedGuidance"))
    with pytest.raises(ConfigError, match="a graph of your own"):
        sf.bridge.to_diffusers(Graph(decode=emoji.nodes["decode"]))
    tapped = emoji.insert("freeu", ApplyTap(change=sf.taps.FreeU()), before="denoise.guider")
    with pytest.raises(
        ConfigError, match=r"have fixed steps, and this graph has others: denoise\.freeu \(ApplyTap\)\."
    ):
        sf.bridge.to_diffusers(tapped)


def test_a_step_of_a_loop_is_no_block(diffusers: Any) -> None:
    steps: Any = __import__("diffusers.modular_pipelines.stable_diffusion_xl.denoise", fromlist=["denoise"])
    with pytest.raises(ConfigError, match="Pass the block of the loop"):
        sf.bridge.diffusers_block(steps.StableDiffusionXLLoopDenoiser())


def test_no_file_names_a_block_of_diffusers(diffusers: Any) -> None:
    graph = Graph(shift=sf.bridge.diffusers_block(blocks_of_diffusers(diffusers)))
    assert ["which no graph file can name" in text for text in blocks_without_source(graph)] == [True]
