"""A spec is a value: equal ones have one key, and what is wrong with one is told with the way out."""

import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sfumato.components.loading.spaces import space_of
from sfumato.components.spec import ComponentSpec
from sfumato.graph.errors import ConfigError, LoadError
from sfumato.graph.space import LatentSpace

EMOJI = Path(__file__).parents[2] / "presets/embedded/emoji"
UNET = ("diffusers", "UNet2DConditionModel")
VAE = ("diffusers", "AutoencoderKL")

names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=6)
maybe = st.none() | names
specs = st.builds(
    ComponentSpec,
    type_hint=st.none() | st.tuples(names, names),
    pretrained_model_name_or_path=maybe,
    subfolder=st.just("") | names,
    revision=maybe,
    variant=maybe,
    dtype=st.sampled_from([None, "float16", "float32"]),
    config=st.none() | st.dictionaries(names, st.integers() | st.booleans() | names, max_size=3),
)


@given(specs)
def test_a_spec_survives_its_json_and_keeps_key_and_hash(spec: ComponentSpec) -> None:
    again = ComponentSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert (again.key, hash(again)) == (spec.key, hash(spec))
    assert again.model_dump() == spec.model_dump()


@given(specs, specs)
def test_two_specs_are_equal_just_when_their_keys_are(one: ComponentSpec, other: ComponentSpec) -> None:
    assert (one == other) == (one.key == other.key) == (one.model_dump() == other.model_dump())


def test_the_key_begins_with_the_id_that_diffusers_gives() -> None:
    spec = ComponentSpec(type_hint=UNET, pretrained_model_name_or_path="org/repo", subfolder="unet", variant="fp16")
    assert spec.load_id == "org/repo|unet|fp16|null"
    assert spec.key == "org/repo|unet|fp16|null|null|diffusers.UNet2DConditionModel"
    assert spec.using(dtype="float16").key == "org/repo|unet|fp16|null|float16|diffusers.UNet2DConditionModel"


def test_a_folder_written_in_several_ways_is_one_component(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EMOJI.parent)
    paths: list[Any] = ["emoji", "./emoji/", str(EMOJI), EMOJI, f"../{EMOJI.parent.name}/emoji"]
    assert len({ComponentSpec(pretrained_model_name_or_path=path, subfolder="vae") for path in paths}) == 1
    assert ComponentSpec(subfolder="vae/") == ComponentSpec(subfolder="./vae")


@pytest.mark.parametrize("dtype", ["float16", "torch.float16", "fp16", torch.float16])
def test_a_dtype_is_taken_by_its_names(dtype: Any) -> None:
    assert ComponentSpec(dtype=dtype).dtype == "float16"


def test_unfit_fields_are_refused_with_what_came(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype: needs a floating dtype of torch .* Got 'float17'"):
        ComponentSpec.from_json({"dtype": "float17"})
    with pytest.raises(ConfigError, match=r"quantization: 'nf5' is unknown\. Did you mean 'nf4'\?"):
        ComponentSpec.from_json({"quantization": "nf5"})
    with pytest.raises(ConfigError, match=r"subfoldr: no such key\. Did you mean 'subfolder'\?"):
        ComponentSpec.from_json({"subfoldr": "unet"})
    with pytest.raises(ValidationError, match="has no quant_method"):
        ComponentSpec(quantization={"bits": 4})
    with pytest.raises(FrozenInstanceError, match=r"spec = spec\.using"):
        ComponentSpec().subfolder = "unet"


@pytest.mark.parametrize("subfolder", ["..", "../x", "a/../../b", "/etc", "a\\b", "C:x"])
def test_a_subfolder_cannot_lead_out_of_its_folder(subfolder: str) -> None:
    with pytest.raises(ConfigError, match="needs a name inside the folder such as 'unet'"):
        ComponentSpec.from_json({"subfolder": subfolder})


def test_a_config_given_inline_is_the_specs_own() -> None:
    config: dict[str, Any] = {"betas": [0.1, 0.2]}
    spec = ComponentSpec(type_hint=("diffusers", "DDIMScheduler"), config=config)
    key = spec.key
    config["betas"].append(0.3)
    assert spec.key == key
    assert spec.read_config() == {"betas": [0.1, 0.2]}
    assert spec != spec.using(config={"betas": [0.1]})


def test_the_type_is_our_light_class_where_we_have_one() -> None:
    spec = ComponentSpec(type_hint=("transformers", "CLIPTextModel"))
    assert spec.type.__module__ == "sfumato.components.models.clip"
    assert ComponentSpec(type_hint=("transformers", "CLIPTokenizerFast")).type.__name__ == "CLIPTokenizer"
    assert ComponentSpec(type_hint=("diffusers", "DDIMScheduler")).type.__name__ == "DDIMScheduler"
    assert ComponentSpec(type_hint=("transformers", "T5EncoderModel")).type.__module__ == "sfumato.components.models.t5"
    assert ComponentSpec(type_hint=("transformers", "Gemma2Model")).type.__module__.startswith("transformers.")


def test_hints_are_not_a_way_to_import_things() -> None:
    for hint in [("subprocess", "Popen"), ("torch", "Tensor"), ("antigravity", "fly"), ("transformers", "logging")]:
        with pytest.raises(LoadError, match="type_hint"):
            _ = ComponentSpec(type_hint=hint).type
    with pytest.raises(LoadError, match="needs a class"):
        _ = ComponentSpec().type


def test_a_folder_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(LoadError, match=r"/no/where: there is no such folder"):
        _ = ComponentSpec(pretrained_model_name_or_path="/no/where").folder
    with pytest.raises(LoadError, match="needs a folder or repo"):
        _ = ComponentSpec().folder


def a_vae(folder: Path, **keys: Any) -> None:
    (folder / "vae").mkdir(parents=True, exist_ok=True)
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **keys}))


def a_denoiser(folder: Path, name: str = "UNet2DConditionModel", **keys: Any) -> ComponentSpec:
    (folder / "net").mkdir(parents=True, exist_ok=True)
    (folder / "net" / "config.json").write_text(json.dumps({"_class_name": name, **keys}))
    return ComponentSpec(type_hint=("diffusers", name), pretrained_model_name_or_path=str(folder), subfolder="net")


def test_autoencoder_and_denoiser_of_one_folder_share_their_space() -> None:
    vae = ComponentSpec(type_hint=VAE, pretrained_model_name_or_path=str(EMOJI), subfolder="vae")
    unet = ComponentSpec(type_hint=UNET, pretrained_model_name_or_path=str(EMOJI), subfolder="unet")
    assert space_of(vae) == LatentSpace(channels=8, scaling=0.18215, shift=0.0)
    assert space_of(unet) == space_of(vae)


def test_spaces_of_unlike_families_do_not_fit(tmp_path: Path) -> None:
    a_vae(tmp_path / "sdxl", latent_channels=4, scaling_factor=0.13025, shift_factor=None)
    a_vae(tmp_path / "flux", latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159)
    sdxl = space_of(a_denoiser(tmp_path / "sdxl", in_channels=4, out_channels=4))
    flux = space_of(a_denoiser(tmp_path / "flux", "FluxTransformer2DModel", in_channels=64, out_channels=None))
    assert flux == LatentSpace(channels=16, scaling=0.3611, shift=0.1159)
    assert sdxl is not None
    assert flux is not None
    assert not sdxl.fits(flux)


def test_a_denoiser_alone_knows_its_channels(tmp_path: Path) -> None:
    assert space_of(a_denoiser(tmp_path / "a", in_channels=9, out_channels=4)) == LatentSpace(channels=4)
    learned = a_denoiser(tmp_path / "b", "PixArtTransformer2DModel", in_channels=4, out_channels=8)
    assert space_of(learned) == LatentSpace(channels=4)
    whole = learned.using(pretrained_model_name_or_path=str(tmp_path / "b" / "net"), subfolder="")
    a_vae(tmp_path / "b", latent_channels=4)  # beside a folder that was given whole, a `vae` may be anyone's
    assert space_of(whole) == LatentSpace(channels=4)


def test_a_tiny_autoencoder_fits_latents_of_any_scaling(tmp_path: Path) -> None:
    a_vae(tmp_path, latent_channels=4, scaling_factor=1.0)
    spec = ComponentSpec(
        type_hint=("diffusers", "AutoencoderTiny"), pretrained_model_name_or_path=str(tmp_path), subfolder="vae"
    )
    assert space_of(spec) == LatentSpace(channels=4)


def test_what_has_no_space_or_no_files_here_has_none(tmp_path: Path) -> None:
    text = ComponentSpec(
        type_hint=("transformers", "CLIPTextModel"), pretrained_model_name_or_path=str(EMOJI), subfolder="text_encoder"
    )
    assert space_of(text) is None
    assert space_of(ComponentSpec(type_hint=VAE)) is None
    assert space_of(ComponentSpec()) is None
    inline = ComponentSpec(type_hint=VAE, config={"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1})
    assert space_of(inline) == LatentSpace(channels=16, scaling=0.3611, shift=0.1)


def test_a_broken_config_is_told_with_its_component(tmp_path: Path) -> None:
    a_vae(tmp_path)
    (tmp_path / "vae" / "config.json").write_text("{]")
    spec = ComponentSpec(type_hint=VAE, pretrained_model_name_or_path=str(tmp_path), subfolder="vae")
    with pytest.raises(LoadError, match=r"AutoencoderKL \(.*\): .*config\.json: is not JSON at line 1"):
        space_of(spec)


def test_specs_and_native_text_classes_are_read_without_importing_transformers_or_diffusers() -> None:
    program = f"""
import sys
from sfumato.components.loading.index import read_index
from sfumato.components.manager import ComponentsManager
manager = ComponentsManager()
for name, spec in read_index({str(EMOJI)!r}).loadable.items():
    manager.load(spec)
print([m for m in ("transformers", "diffusers", "peft", "torch._dynamo") if m in sys.modules])
"""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"


def test_a_changed_spec_has_lists_for_tuples_and_refuses_what_is_no_json() -> None:
    spec = ComponentSpec().using(config={"a": (1, (2, 3)), "b": {"c": (4,)}})
    assert spec.config == {"a": [1, [2, 3]], "b": {"c": [4]}}
    assert spec.using(config={"a": (1,)}).config == {"a": [1]}
    with pytest.raises(ConfigError, match=r"config\.a: .*JSON"):
        spec.using(config={"a": object()})
    with pytest.raises(ConfigError, match=r"needs a part of a file name such as 'fp16'\. Got '\.\./x'"):
        spec.using(variant="../x")
