"""Folders as they are published: shards, variants, tokenizers of both ages, what others need beside, both indexes."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.loading.index import read_index

from .flux import flux_checkpoint as flux_checkpoint
from .support import EMBEDDED, fresh, held

CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 0, "output_type": "pt"}
SIZE: dict[str, dict[str, Any]] = {"flux": {"height": 32, "width": 32, "max_sequence_length": 24}}
KINDS = {"sdxl": ("xl_checkpoint", "base", "unet"), "flux": ("flux_checkpoint", "dev", "transformer")}


@pytest.fixture(scope="session")
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint laid out as on the Hub: a denoiser in shards, fp16 files beside the plain ones, older tokenizers."""

    @cache
    def make(kind: str) -> Path:
        fixture, name, denoiser = KINDS[kind]
        folder = shutil.copytree(request.getfixturevalue(fixture)(name), tmp_path_factory.mktemp(kind) / "whole")
        manager = fresh()
        for part, spec in read_index(folder).loadable.items():
            thing = manager.load(spec)
            if isinstance(thing, sf.models.CLIPTextModel | sf.models.AutoencoderKL) or part == denoiser:
                shards = {"max_shard_size": "20KB"} if part == denoiser else {}
                thing.save_pretrained(folder / part, **shards)
                half: Any = manager.load(spec.using(dtype="float16"))
                half.save_pretrained(folder / part, variant="fp16", **shards)
            elif hasattr(thing, "encode") and "T5" not in type(thing).__name__:
                for file in (folder / part).iterdir():
                    file.unlink()
                thing.save_pretrained(folder / part)
                assert (folder / part / "vocab.json").is_file() and not (folder / part / "tokenizer.json").exists()
        (folder / denoiser / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
        (folder / "vae" / "model.onnx").write_bytes(b"for others")
        (folder / "whole.safetensors").write_bytes(b"not for a folder's reader")
        return folder

    return make


def modular(folder: Path) -> Path:
    """The same folder with a modular index in place of the classic one."""
    classic = json.loads((folder / "model_index.json").read_text())
    entries = {
        name: [*hint, {
            "pretrained_model_name_or_path": "someone/elsewhere", "revision": "abc", "subfolder": name,
            "type_hint": hint, "variant": None,
        }]
        for name, hint in classic.items() if isinstance(hint, list) and hint[0]
    }  # fmt: skip
    plain = {name: value for name, value in classic.items() if not isinstance(value, list)}
    name = classic["_class_name"].replace("Pipeline", "ModularPipeline")
    (folder / "model_index.json").unlink()
    text = json.dumps({**plain, **entries, "_class_name": name, "image_encoder": [None, None, None]})
    (folder / "modular_model_index.json").write_text(text)
    return folder


def picture(pipe: sf.Graph, kind: str) -> Tensor:
    return pipe(**CALL, **SIZE.get(kind, {})).images


@pytest.mark.parametrize("index", ["model_index.json", "modular_model_index.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_layout_draws_what_the_plain_folder_draws(
    request: pytest.FixtureRequest, published: Callable[[str], Path], tmp_path: Path, kind: str, index: str
) -> None:
    fixture, name, denoiser = KINDS[kind]
    folder = shutil.copytree(published(kind), tmp_path / "copy")
    folder = folder if index == "model_index.json" else modular(folder)
    names = {path.name for path in (folder / denoiser).iterdir()}
    assert {
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    } < names
    want = picture(sf.load(request.getfixturevalue(fixture)(name), manager=fresh()), kind)
    plain = sf.load(folder, manager=fresh())
    assert plain.preset == (kind, "text2image")
    assert (picture(plain, kind) - want).abs().max() < 1e-5
    half = sf.load(folder, variant="fp16", manager=fresh())
    assert half.bindings[denoiser].spec.variant == "fp16" and half.bindings["scheduler"].spec.variant is None
    assert (picture(half, kind) - want).abs().max() < 0.05
    assert not torch.equal(picture(half, kind), want), "the halved files were read"


def test_a_variant_that_is_not_there_names_what_is(published: Callable[[str], Path]) -> None:
    with pytest.raises(sf.LoadError, match=r"no variant 'bf16' of .*diffusion_pytorch_model\.fp16\.safetensors"):
        sf.load(published("sdxl"), variant="bf16", manager=fresh())


def test_a_missing_shard_is_told_before_anything_runs(published: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(published("sdxl"), tmp_path / "copy")
    shard = sorted((folder / "unet").glob("diffusion_pytorch_model-0*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(sf.LoadError, match=f"lacks {shard.name} of"):
        sf.load(folder, manager=fresh())(**CALL)


def test_eight_threads_load_and_run_at_once_and_hold_each_component_once() -> None:
    manager = fresh()
    together = threading.Barrier(8)

    def one(_: int) -> tuple[list[int], Tensor]:
        together.wait()
        pipe = sf.load(EMBEDDED, manager=manager)
        images = pipe(**CALL).images
        return [id(held(pipe, name)) for name in sorted(pipe.bindings)], images

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(8)))
    assert all(ids == results[0][0] for ids, _ in results)
    assert all(torch.equal(images, results[0][1]) for _, images in results)
    models = [held(sf.load(EMBEDDED, manager=manager), name) for name in ("unet", "vae", "text_encoder")]
    tensors = [t for m in models if isinstance(m, nn.Module) for t in (*m.parameters(), *m.buffers())]
    assert tensors and not any(tensor.is_meta for tensor in tensors)
