"""Components that `sf.load` takes by their paths: their own config, or that of the checkpoint where a file has none."""

from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.handle import Handle
from sfumato.components.loading.single_file.checkpoint import facts_of
from sfumato.presets.names import EMBEDDED

from ..components.test_single_file_recognition import SINGLES, shapes_of, write
from .support import fresh

EMOJI = EMBEDDED / "emoji"
CALL: dict[str, Any] = {"prompt": "a fox", "seed": 1, "num_inference_steps": 2, "output_type": "pt"}
FAMILIES = ("sd1", "sdxl", "sd3", "flux")


def files(family: str, folder: Path) -> tuple[Path, Path, Path]:
    """A checkpoint (of SD 3 without its text towers), its denoiser alone, and its autoencoder alone."""
    shapes, models = shapes_of(family), facts_of(family)["models"]
    prefix = {name: models[name]["prefix"] for name in models}
    denoiser = prefix.get("unet") or prefix["transformer"]
    if family == "sd3":  # the tiny ones have unlike widths
        shapes = {name: s for name, s in shapes.items() if name.startswith((denoiser, prefix["vae"]))}
    vae = {name.removeprefix(prefix["vae"]): s for name, s in shapes.items() if name.startswith(prefix["vae"])}
    return (
        write(folder / "whole.safetensors", shapes),
        write(folder / "denoiser.safetensors", {n: s for n, s in shapes.items() if n.startswith(denoiser)}),
        write(folder / "vae.safetensors", vae),
    )


def config_of(pipe: sf.Graph, name: str) -> dict[str, Any]:
    bound = pipe.bindings[name]
    assert isinstance(bound, Handle)
    return bound.spec.read_config()


def load(x: Any, **more: Any) -> sf.Graph:
    return sf.load(x, manager=fresh(), **more)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_autoencoder_in_a_file_has_the_numbers_of_the_checkpoint(family: str, kind: Any, tmp_path: Path) -> None:
    whole, denoiser, vae = files(family, tmp_path)
    own = config_of(load(whole), "vae")
    for pipe in (load(whole, vae=kind(vae)), load(denoiser, vae=kind(vae))):
        config = config_of(pipe, "vae")
        keys = ("scaling_factor", "shift_factor", "force_upcast", "latent_channels")
        assert {key: config.get(key) for key in keys} == {key: own.get(key) for key in keys}
        assert pipe.bindings["vae"].spec.pretrained_model_name_or_path == str(vae)


def test_an_autoencoder_that_was_loaded_from_a_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    whole, _, vae = files("sdxl", tmp_path)
    with pytest.raises(sf.WireError, match=r"Pass its path, sf\.load\(…, vae='file\.safetensors'\), to use those of"):
        load(whole, vae=sf.load_component(vae, manager=fresh()))


def test_a_whole_checkpoint_gives_its_own_part(tmp_path: Path) -> None:
    whole, denoiser, _ = files("sdxl", tmp_path)
    pipe = load(denoiser, vae=str(whole), text_encoder=str(whole))
    assert [pipe.bindings[name].spec.subfolder for name in ("vae", "text_encoder")] == ["vae", "text_encoder"]
    assert config_of(pipe, "vae")["scaling_factor"] == 0.13025


@pytest.mark.parametrize("folder", [EMOJI / "vae", EMOJI])
def test_a_folder_of_a_component_or_of_a_pipeline_gives_it(folder: Path) -> None:
    images = load("emoji")(**CALL).images
    pipe = load("emoji", vae=str(folder), text_encoder=EMOJI / "text_encoder", tokenizer=str(EMOJI / "tokenizer"))
    assert torch.equal(pipe(**CALL).images, images)


def test_a_saved_graph_and_a_family_take_paths_too(tmp_path: Path) -> None:
    images = load("emoji")(**CALL).images
    load("emoji").save(tmp_path)
    assert torch.equal(load(tmp_path, vae=str(EMOJI / "vae"))(**CALL).images, images)
    names = ("unet", "vae", "text_encoder", "tokenizer")
    pipe = load("sd", **{name: str(EMOJI / name) for name in names})
    assert {name: pipe.bindings[name].type.__name__ for name in names} == {
        "unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
    }  # fmt: skip


def test_a_control_net_in_a_file_is_inserted(tmp_path: Path) -> None:
    whole, *_ = files("sd1", tmp_path)
    net = write(tmp_path / "net.safetensors", shapes_of("control net"))
    assert SINGLES["control net"][0] == "ControlNetModel"
    pipe = load(whole, controlnet=str(net))
    assert type(pipe["denoise.control"]).__name__ == "ApplyControlNet" and "controlnet" in pipe.bindings


def test_names_of_schedulers_and_slots_stay_names() -> None:
    pipe = load("emoji", scheduler="euler", guider="apg")
    assert type(pipe.bindings["scheduler"]) is sf.schedulers.EulerDiscreteScheduler
    assert type(pipe["denoise.guider"]) is sf.guiders.AdaptiveProjectedGuidance


def test_a_path_that_has_no_such_component_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sf.LoadError, match=r"vae: 'sd' has no vae\. Pass the path of its folder"):
        load("emoji", vae="sd")
    with pytest.raises(sf.LoadError, match="neither a folder nor a preset"):
        load("emoji", vae="nothing")
    with pytest.raises(sf.WireError, match=r"vae  is 'x', but .* If that is a path, load it: sf\.load_comp"):
        load("emoji").bind(vae="x")
