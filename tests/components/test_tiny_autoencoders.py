"""`decoder="tiny"`, and components that one of the blocks which share them has for itself."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import sfumato as sf
from sfumato.blocks.decode.images import DecodeLatents
from sfumato.components.models import AutoencoderKL, AutoencoderTiny
from sfumato.presets.cli.app import app

from .hub_server import Hub, asked_here

CALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 2, "output_type": "pt"}
WIDTHS = (8, 8, 8, 8)


def tiny(channels: int) -> AutoencoderTiny:
    torch.manual_seed(0)
    model = AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=WIDTHS, decoder_block_out_channels=WIDTHS
    )
    return model.eval().requires_grad_(False)


def decoded(model: AutoencoderTiny, latents: Tensor) -> Tensor:
    return model.decode(latents).add(1).div(2).clamp(0, 1)


@pytest.fixture(scope="module")
def pipe() -> sf.Graph:
    return sf.load("emoji", manager=sf.ComponentsManager())


@pytest.fixture
def full() -> AutoencoderKL:
    torch.manual_seed(1)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=WIDTHS, norm_num_groups=4, layers_per_block=1, **kinds).eval()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    """A Hub that has the tiny autoencoder of Stable Diffusion."""
    tiny(4).save_pretrained(tmp_path / "hub/madebyollin/taesd")
    with asked_here(tmp_path / "hub", tmp_path / "cache", monkeypatch) as server:
        yield server


# ------------------------------------------------------------------------------------------- a component of its own
def test_the_decoder_has_its_own_and_the_encoder_keeps_the_shared_one(pipe: sf.Graph) -> None:
    model = tiny(8)
    changed = pipe.using(decoder=model)
    latents = pipe.only("latents")(**{k: v for k, v in CALL.items() if k != "output_type"}).latents
    assert torch.equal(changed(**CALL).images, decoded(model, latents))
    assert torch.equal(pipe(**CALL, decoder=model).images, changed(**CALL).images)
    assert torch.equal(changed(**CALL, decoder=pipe.bindings["vae"]).images, pipe(**CALL).images)
    assert "decoder" not in pipe.components and "vae" not in changed.components

    change = changed.task("image2image")
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    assert {"vae", "decoder"} <= change.components.keys()
    latents = change.only("image_latents")(image=image, seed=7, prompt="a fox").image_latents
    whole = pipe.task("image2image").only("image_latents")(image=image, seed=7, prompt="a fox").image_latents
    assert torch.equal(latents, whole)
    encoded = change.using(encoder=model).only("image_latents")(image=image, seed=7, prompt="a fox").image_latents
    assert torch.equal(encoded[0], model.encode(change.only("pixels")(image=image).pixels * 2 - 1)[0])


def test_a_run_shows_previews_by_the_tiny_decoder_it_has(pipe: sf.Graph) -> None:
    model = tiny(8)
    run = pipe.stream(**CALL, decoder=model)
    event = next(event for event in run if isinstance(event, sf.events.StepFinished))
    pixels = decoded(model, event.clean)[0].mul(255).round().byte().permute(1, 2, 0)
    assert event.preview()[0] == Image.fromarray(pixels.numpy())


def test_a_folder_of_a_tiny_autoencoder_is_saved_with_its_graph(pipe: sf.Graph, tmp_path: Path) -> None:
    tiny(8).save_pretrained(tmp_path / "tiny")
    loaded = sf.load("emoji", decoder=tmp_path / "tiny", manager=sf.ComponentsManager())
    picture = loaded(**CALL).images
    assert torch.equal(picture, pipe(**CALL, decoder=tiny(8)).images)
    loaded.save(tmp_path / "graph")
    again = sf.load(tmp_path / "graph", access=sf.Access(folders=[str(tmp_path)]))
    assert torch.equal(again(**CALL).images, picture)


def test_a_name_near_it_is_guessed(pipe: sf.Graph) -> None:
    with pytest.raises(sf.InputError, match="Did you mean 'decoder'"):
        pipe(**CALL, decodr="tiny")


# ------------------------------------------------------------------------------------------------- the published ones
def test_tiny_is_the_published_one_of_the_latent_space(published: Hub, full: AutoencoderKL) -> None:
    manager = sf.ComponentsManager(dtype="bfloat16")
    graph = sf.Graph(decode=DecodeLatents(), outputs=["images"]).bind(vae=manager.add("vae", full.bfloat16()))
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    quick = graph.using(decoder="tiny")
    assert [name for name in published.given if name.endswith(".safetensors")] == []  # fetched at the first use
    handle = quick.bindings["decoder"]
    assert (handle.manager, handle.dtype) == (manager, "bfloat16")
    assert torch.equal(quick(latents=latents).images, decoded(tiny(4).bfloat16(), latents.bfloat16()).float())
    assert graph.using(vae="tiny").bindings["vae"] == handle
    assert quick.using(decoder="tiny") == quick


def test_without_it_the_error_says_what_to_get_and_how_to_pass_it(
    pipe: sf.Graph, full: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(sf.WireError) as unknown:
        pipe(**CALL, decoder="tiny")
    assert str(unknown.value) == (
        'decoder  no repo is known for "tiny" in this latent space (8 channels, scaling 0.18215, shift 0). '
        'Pass one in place of "tiny": sf.load_component("…", "AutoencoderTiny").'
    )
    graph = sf.Graph(decode=DecodeLatents(), outputs=["images"])
    with pytest.raises(sf.WireError, match='"tiny" needs the autoencoder of the graph'):
        graph.using(decoder="tiny")
    with asked_here(tmp_path, tmp_path / "cache", monkeypatch), pytest.raises(sf.LoadError) as lacking:
        graph.bind(vae=full).using(decoder="tiny")
    text = str(lacking.value)
    assert text.startswith('"tiny" is madebyollin/taesd here, which cannot be loaded: ')
    assert text.endswith(
        "Get its files config.json and diffusion_pytorch_model.safetensors into a folder. "
        'Pass one in place of "tiny": sf.load_component("folder", "AutoencoderTiny").'
    )


def test_a_command_takes_its_path(tmp_path: Path) -> None:
    tiny(8).save_pretrained(tmp_path / "tiny")
    shown = CliRunner().invoke(app, ["plan", "a fox", "--decoder", str(tmp_path / "tiny"), "--json"])
    assert shown.exit_code == 0, shown.output
    assert {one["name"]: one["type"] for one in json.loads(shown.stdout)["components"]}["decoder"] == "AutoencoderTiny"
