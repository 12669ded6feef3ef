"""Flux Redux beside the reference: images say what is painted; and control nets that lie in a checkpoint's folder."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph, InputError, LoadError, named
from sfumato.blocks.text.flux import EncodePrompt
from sfumato.blocks.text.redux import AddImagePrompt
from sfumato.components.conditioning import FluxConditioning
from sfumato.components.image_processor import SiglipImageProcessor

from .flux import TRANSFORMER, ReferenceFlux
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .flux import flux_reference as flux_reference
from .support import apart, picture, quiet, run, seeded

Load = Callable[..., Graph]
Theirs = Callable[..., ReferenceFlux]
Same = Callable[..., object]
SIZES: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 3, "guidance_scale": 2.5}


@pytest.fixture(scope="session")
def prior(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Redux, which diffusers made and saved."""
    transformers: Any = import_module("transformers")
    redux: Any = import_module("diffusers.pipelines.flux.modeling_flux")
    folder = tmp_path_factory.mktemp("redux")
    with seeded(2):
        config = transformers.SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        diffusers.FluxPriorReduxPipeline(
            image_encoder=transformers.SiglipVisionModel(config),
            feature_extractor=transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
            image_embedder=redux.ReduxImageEncoder(redux_dim=16, txt_in_features=32),
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def parts(prior: Path) -> dict[str, Any]:
    """What Redux brings, as ours."""
    return {
        "image_encoder": sf.models.SiglipVisionModel.from_pretrained(prior / "image_encoder"),
        "feature_extractor": SiglipImageProcessor.from_pretrained(prior / "feature_extractor"),
        "image_embedder": sf.models.ReduxImageEncoder.from_pretrained(prior / "image_embedder"),
    }


@pytest.fixture(scope="session")
def their_prior(diffusers: Any, prior: Path, flux_reference: Theirs) -> Callable[..., dict[str, Any]]:
    """What their prior says. It holds the text encoders, for without them it knows zeros of full size only."""
    towers = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    with quiet():
        pipe = diffusers.FluxPriorReduxPipeline.from_pretrained(prior)
        held = {**pipe.components, **{name: flux_reference().pipe.components[name] for name in towers}}
        pipe = diffusers.FluxPriorReduxPipeline(**held)

    def say(**given: Any) -> dict[str, Any]:
        with quiet():
            said = pipe(**given)
        return {"prompt_embeds": said.prompt_embeds, "pooled_prompt_embeds": said.pooled_prompt_embeds}

    return say


def silence(images: int = 1) -> dict[str, Any]:
    return {"prompt_embeds": torch.zeros(images, 512, 32), "pooled_prompt_embeds": torch.zeros(images, 32)}


@pytest.mark.parametrize("scales", [{}, {"prompt_embeds_scale": 0.5, "pooled_prompt_embeds_scale": 0.3}], ids=str)
def test_an_image_says_what_is_painted(
    flux: Load,
    flux_reference: Theirs,
    their_prior: Callable[..., dict[str, Any]],
    parts: dict[str, Any],
    same: Same,
    scales: dict[str, float],
) -> None:
    pipe = flux("dev", "redux").bind(parts)
    assert "text_encoder" not in pipe.components
    said = their_prior(image=picture(1), **silence(), **scales)
    same(run(pipe, image=picture(1), seed=5, **SIZES, **scales), flux_reference()(seed=5, **said, **SIZES))


def test_several_images_are_one_prompt(
    flux: Load,
    flux_reference: Theirs,
    their_prior: Callable[..., dict[str, Any]],
    parts: dict[str, Any],
    same: Same,
) -> None:
    images = [picture(1), picture(2)]
    scales: dict[str, Any] = {"prompt_embeds_scale": (1.0, 0.4), "pooled_prompt_embeds_scale": (0.2, 1.0)}
    said = their_prior(image=images, **silence(2), **{name: list(scale) for name, scale in scales.items()})
    ours = run(flux("dev", "redux").bind(parts), image=images, seed=5, num_images_per_prompt=2, **SIZES, **scales)
    same(ours, flux_reference()(seed=5, num_images_per_prompt=2, **said, **SIZES))


def test_words_and_an_image_together(
    flux: Load,
    flux_reference: Theirs,
    their_prior: Callable[..., dict[str, Any]],
    parts: dict[str, Any],
    same: Same,
) -> None:
    """The prompt's own block in place of none: one replace."""
    pipe = flux("dev", "redux").replace("empty_prompt", named(EncodePrompt(), conditioning="positive"))
    towers = {name: value for name, value in flux().bindings.items() if name in pipe.components}
    said = their_prior(image=picture(1), prompt="a fish", prompt_2="a shark")
    given: dict[str, Any] = {"prompt": "a fish", "prompt_2": "a shark", "image": picture(1)}
    same(run(pipe.bind({**towers, **parts}), seed=5, **given, **SIZES), flux_reference()(seed=5, **said, **SIZES))


def test_its_folder_loads_with_the_task_redux(
    flux_checkpoint: Callable[[str], Path], flux: Load, prior: Path, parts: dict[str, Any], same: Same
) -> None:
    """Its components go to a checkpoint, or those of a checkpoint to it."""
    checkpoint, given = flux_checkpoint("dev"), {"image": picture(1), "seed": 5, **SIZES}
    expected = run(flux("dev", "redux").bind(parts), **given)
    redux = sf.load(prior, "redux")
    assert {*redux.bindings} == {*parts}
    lacking = {name: value for name, value in sf.load(checkpoint).bindings.items() if name in redux.components}
    for pipe in (sf.load(checkpoint, "redux", **redux.bindings), sf.load(prior, "redux", **lacking)):
        assert torch.equal(run(pipe, **given).latents, expected.latents)
    with pytest.raises(InputError, match=r"(?s)scheduler .*transformer .*Write graph\.bind\(transformer=…\).*vae "):
        redux(**given)


@pytest.mark.parametrize("task", ["text2image", "image2image", "auto"])
def test_its_folder_refuses_other_tasks_and_what_it_says_works(
    flux_checkpoint: Callable[[str], Path], prior: Path, task: str
) -> None:
    with pytest.raises(LoadError) as refusal:
        sf.load(prior, task)
    advice = f"sf.load(checkpoint, 'redux', **sf.load({str(prior)!r}, 'redux').bindings)"
    assert str(refusal.value) == (
        f"{prior}: a FluxPriorReduxPipeline has no denoiser. It serves the task 'redux', got {task!r}. "
        f"Pass its components to a checkpoint of flux: {advice}."
    )
    pipe: Graph = eval(advice, {"sf": sf, "checkpoint": flux_checkpoint("dev")})
    assert run(pipe, image=picture(1), seed=5, **SIZES).latents.isfinite().all()


def test_inspect_lists_its_one_task_and_the_components_that_it_lacks(prior: Path) -> None:
    found = sf.inspect(prior)
    assert (found.family, found.tasks) == ("flux", ("redux",))
    assert [line.partition(":")[0] for line in found.missing] == ["scheduler", "transformer", "vae"]


def test_each_of_its_components_loads_alone(prior: Path, parts: dict[str, Any]) -> None:
    """By its folder, as in any pipeline: the class is in its own config, whichever library published it."""
    for name, part in parts.items():
        assert type(sf.load_component(prior, subfolder=name)) is type(part)


def test_scales_that_do_not_fit_are_refused(flux: Load, parts: dict[str, Any]) -> None:
    pipe = flux("dev", "redux").bind(parts)
    with pytest.raises(Exception, match=r"prompt_embeds_scale has 2 numbers for 1 image\."):
        pipe(image=picture(1), prompt_embeds_scale=(1.0, 2.0), **SIZES)


def test_prompts_and_images_of_unequal_number_are_refused() -> None:
    words = FluxConditioning(torch.zeros(2, 4, 8), torch.zeros(2, 8))
    with pytest.raises(ValueError, match="There are 2 prompts for 3 images"):
        AddImagePrompt()(words, torch.zeros(3, 5, 8))


# ------------------------------------------------------------------------------ control nets in a checkpoint's folder
@pytest.mark.parametrize("hint", [None, 4])
def test_a_control_net_of_the_checkpoint_is_put_in(
    diffusers: Any, flux_checkpoint: Callable[[str], Path], tmp_path: Path, same: Same, hint: int | None
) -> None:
    folder = shutil.copytree(flux_checkpoint("dev"), tmp_path / "controlled")
    with quiet():
        torch.manual_seed(3)
        more = {} if hint is None else {"conditioning_embedding_channels": hint, "patch_size": 2}
        net = diffusers.FluxControlNetModel(**{**TRANSFORMER, "num_layers": 1, "num_single_layers": 0, **more})
        for parameter in net.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
        net.save_pretrained(folder / "controlnet")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "FluxControlNetPipeline", "controlnet": ["diffusers", "FluxControlNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    pipe = sf.load(folder)
    given: dict[str, Any] = {**SIZES, "prompt": "a fish", "max_sequence_length": 24, "control_image": picture(3)}
    ours = run(pipe, seed=5, **given)
    same(ours, ReferenceControl(diffusers, folder)(seed=5, **given))
    assert apart(ours, run(pipe, seed=5, controlnet_conditioning_scale=0.0, **given)).latents > 1e-2


class ReferenceControl(ReferenceFlux):
    """The pipeline that the folder is of."""

    CLASSES = {"text2image": "FluxControlNetPipeline"}  # noqa: RUF012  as its base has it
