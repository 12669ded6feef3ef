"""Control LoRAs of Flux beside the reference: the transformer reads twice as many channels with them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sfumato as sf
from sfumato import ConfigError, Graph, InputError, SfumatoError, WireError
from sfumato.components.adapters.names import names_of

from .flux import CHANNELS, SMALL, TRANSFORMER
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .support import apart, half, picture, quiet, run
from .test_flux_control import ReferenceDepth

Load = Callable[..., Graph]
Same = Callable[..., object]
GIVEN: Mapping[str, Any] = {**SMALL, "prompt": "a fish", "control_image": picture(5, 40, 70)}


def control_tensors() -> dict[str, Tensor]:
    """The tensors of a file as Black Forest Labs publish it: factors with biases, and whole scales of norms."""
    torch.manual_seed(2)
    names = names_of("FluxTransformer2DModel", TRANSFORMER)
    tensors: dict[str, Tensor] = {}
    for name, target in names.authors.items():
        out, *into = names.source_shape(target)
        if not into:
            tensors[f"{name}.scale"] = 1 + torch.randn(out) * 0.3
            continue
        columns = 2 * into[0] if name == "img_in" else into[0]
        tensors |= {
            f"{name}.lora_A.weight": torch.randn(4, columns) * 0.1,
            f"{name}.lora_B.weight": torch.randn(out, 4) * 0.1,
            f"{name}.lora_B.bias": torch.randn(out) * 0.1,
        }
    return tensors


def for_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in the names of diffusers, which reads the authors' names for a model of the published sizes alone."""
    names = names_of("FluxTransformer2DModel", TRANSFORMER)
    made: dict[str, Tensor] = {}
    for name, target in names.authors.items():
        if (scale := tensors.get(f"{name}.scale")) is not None:
            made[f"transformer.{target.layers[0]}.weight"] = scale
            continue
        down = tensors[f"{name}.lora_A.weight"]
        for end in ("lora_B.weight", "lora_B.bias"):
            rows = tensors[f"{name}.{end}"]
            rows = torch.cat([*reversed(rows.chunk(2))]) if target.how == "halves swapped" else rows
            sizes = [names.shapes[layer][0] for layer in target.layers]
            for layer, piece in zip(target.layers, rows.split(sizes), strict=True):
                made |= {f"transformer.{layer}.{end}": piece, f"transformer.{layer}.lora_A.weight": down}
    return made


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_file(control_tensors(), file := tmp_path_factory.mktemp("control") / "canny.safetensors")
    return file


@pytest.mark.parametrize("task", ["text2image", "image2image", "inpaint"])
def test_the_picture_is_that_of_diffusers(
    diffusers: Any, flux: Load, flux_checkpoint: Callable[[str], Path], same: Same, control: Path, task: str
) -> None:
    given: dict[str, Any] = {**GIVEN, "num_images_per_prompt": 2}
    given |= {} if task == "text2image" else {"image": picture(6), "strength": 0.7}
    given |= {"mask_image": half()} if task == "inpaint" else {}
    theirs = ReferenceDepth(diffusers, flux_checkpoint("dev"))
    with quiet():
        parts = {name: part for name, part in theirs.pipe.components.items() if part is not None}
        diffusers.FluxControlPipeline(**parts).load_lora_weights(for_diffusers(control_tensors()))
    pipe = flux("dev", task).with_adapters(sf.load_adapter(control))
    same(run(pipe, seed=3, **given), theirs(task, seed=3, **given))


def dense(plain: Any, strength: float) -> Any:
    """The model of twice as many channels whose weights the published rule gives: `W + strength * difference`."""
    made = type(plain)(**{**TRANSFORMER, "in_channels": 8 * CHANNELS, "out_channels": 4 * CHANNELS})
    weights = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    weights["x_embedder.weight"] = torch.nn.functional.pad(weights["x_embedder.weight"], (0, 4 * CHANNELS))
    tensors = {name.removeprefix("transformer."): t for name, t in for_diffusers(control_tensors()).items()}
    for name, tensor in tensors.items():
        layer = name.split(".lora_")[0]
        if name.endswith("lora_B.weight"):
            weights[f"{layer}.weight"] += strength * tensor @ tensors[f"{layer}.lora_A.weight"]
        elif name.endswith("lora_B.bias"):
            weights[f"{layer}.bias"] += strength * tensor
        elif "lora" not in name:
            weights[name] += strength * (tensor - weights[name])
    made.load_state_dict(weights)
    return made.eval()


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_strength_scales_the_whole_change(flux: Load, control: Path, strength: float) -> None:
    pipe = flux()
    styled = pipe.with_adapters(sf.load_adapter(control).scaled(strength))
    by_hand = sf.load("flux", **{**pipe.bindings, "transformer": dense(pipe.bindings["transformer"].load(), strength)})
    expected = run(by_hand, seed=3, **GIVEN)
    assert apart(run(styled, seed=3, **GIVEN), expected).latents < 1e-4
    merged = styled.merged()
    assert merged.bindings["transformer"].config == by_hand.bindings["transformer"].config
    assert apart(run(merged, seed=3, **GIVEN), expected).latents < 1e-4


def test_the_graph_reads_a_control_picture_and_the_model_stays(flux: Load, control: Path) -> None:
    canny, pipe = sf.load_adapter(control), flux()
    styled = pipe.with_adapters(canny)
    assert "control_image" not in pipe.inputs
    assert "control_image" in styled.inputs
    assert list(styled.task("image2image").inputs) == list(pipe.task("image2image").with_adapters(canny).inputs)
    view = styled.adapted_bindings["transformer"]
    assert view.config["in_channels"] == view.load().config.in_channels == 8 * CHANNELS
    assert pipe.bindings["transformer"].load().config.in_channels == 4 * CHANNELS
    one = run(styled, seed=3, **GIVEN)
    assert apart(run(pipe, seed=3, adapters=[canny], **GIVEN), one).latents == 0
    assert apart(run(flux("dev", "auto"), seed=3, adapters=[canny], **GIVEN), one).latents == 0
    assert apart(run(styled, seed=3, **{**GIVEN, "control_image": picture(6)}), one).latents > 1e-2


def test_edits_of_the_graph_stay(flux: Load, control: Path) -> None:
    pipe = flux().only("latents").using(num_inference_steps=2)
    styled = pipe.with_adapters(sf.load_adapter(control))
    assert styled.wanted == pipe.wanted
    assert styled["schedule"] == pipe["schedule"]


def test_a_style_goes_with_it(flux: Load, control: Path, tmp_path: Path) -> None:
    """The columns of a LoRA for the plain input are the first ones."""
    names = "transformer.x_embedder.lora_A.weight", "transformer.x_embedder.lora_B.weight"
    torch.manual_seed(4)
    save_file(dict(zip(names, (torch.randn(2, 16), torch.randn(32, 2)), strict=True)), tmp_path / "style.safetensors")
    style, canny = sf.load_adapter(tmp_path / "style.safetensors"), sf.load_adapter(control)
    both = run(flux().with_adapters(canny, style), seed=3, **GIVEN)
    assert apart(run(flux().with_adapters(style).with_adapters(canny).merged(), seed=3, **GIVEN), both).latents < 1e-4
    assert apart(run(flux().with_adapters(canny), seed=3, **GIVEN), both).latents > 1e-2


def test_a_quantized_transformer_stays_quantized(flux_checkpoint: Callable[[str], Path], control: Path) -> None:
    pipe = sf.load(flux_checkpoint("dev"), quantization={"transformer": "nf4"})
    styled = pipe.with_adapters(sf.load_adapter(control))
    view = styled.adapted_bindings["transformer"].load()
    assert view.x_embedder.weight is pipe.bindings["transformer"].load().x_embedder.weight
    assert torch.isfinite(run(styled, seed=3, **GIVEN).latents).all()


def test_it_is_saved_with_its_graph_and_for_comfyui(flux: Load, control: Path, tmp_path: Path) -> None:
    canny, pipe = sf.load_adapter(control), flux()
    styled = pipe.with_adapters(canny)
    expected = run(styled, seed=3, **GIVEN)
    styled.save_pretrained(tmp_path / "saved")
    assert apart(run(sf.load(tmp_path / "saved"), seed=3, **GIVEN), expected).latents == 0
    file = canny.save(tmp_path / "comfy.safetensors", "comfy", pipe=pipe)
    stated = load_file(file)["diffusion_model.img_in.reshape_weight"]
    assert stated.tolist() == [32, 8 * CHANNELS]
    assert apart(run(pipe.with_adapters(sf.load_adapter(file)), seed=3, **GIVEN), expected).latents < 1e-5


def test_what_lacks_says_so(flux: Load, control: Path) -> None:
    canny, pipe = sf.load_adapter(control), flux()
    without = {name: value for name, value in GIVEN.items() if name != "control_image"}
    for graph, more in ((pipe.with_adapters(canny), {}), (pipe, {"adapters": [canny]})):
        with pytest.raises(InputError, match="control_image  needs a value"):
            graph(**without, **more)
    wide = pipe.with_adapters(canny).merged().bindings["transformer"]
    with pytest.raises(SfumatoError, match=r"reads 32 channels, .* Make a graph of the task 'text2image' for it"):
        pipe(**without, transformer=wide)
    with pytest.raises(WireError, match=r"reads a control picture and no mask\. Use the task 'inpaint'\."):
        pipe.with_adapters(canny).task("fill")
    with pytest.raises(ConfigError, match=r"img_in is for a matrix of 32x32, and that of the transformer is 32x288"):
        flux("fill", "fill").with_adapters(canny)


def test_combined_ones_are_as_wide(flux: Load, tmp_path: Path) -> None:
    torch.manual_seed(5)
    files: list[sf.Adapter] = []
    for columns in (32, 16):
        parts = {"img_in.lora_A.weight": torch.randn(2, columns), "img_in.lora_B.weight": torch.randn(32, 2)}
        save_file(parts, file := tmp_path / f"{columns}.safetensors")
        files.append(sf.load_adapter(file))
    pipe = flux()
    expected = run(pipe.with_adapters(files[0], files[1].scaled(0.5)), seed=3, **GIVEN)
    for method in ("cat", "svd"):
        both = sf.adapters.combine(files, [1.0, 0.5], method, pipe=pipe)
        assert apart(run(pipe.with_adapters(both), seed=3, **GIVEN), expected).latents < 1e-4, method
