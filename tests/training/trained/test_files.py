"""Saved adapters: the headers that others read, and the same change of every matrix in diffusers."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sfumato import ConfigError, Graph
from sfumato.components.training.adapters import TrainedAdapter, train_adapter
from sfumato.components.training.headers import TrainingHeader
from sfumato.components.training.together import TrainedTogether
from sfumato.components.training.whole import TrainedWhole, train_whole

from .support import digest, fill, view_of

FAMILIES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "tiny": ("tiny_reference", "unet", ("text_encoder",)),
    "xl": ("xl_reference", "unet", ("text_encoder", "text_encoder_2")),
    "sd3": ("sd3_reference", "transformer", ("text_encoder", "text_encoder_2")),
    "flux": ("flux_reference", "transformer", ("text_encoder",)),
}


def changes(model: Any) -> dict[str, Tensor]:
    """The differences of all matrices of a model with PEFT's layers."""
    return {
        path.removeprefix("text_model."): layer.get_delta_weight(layer.active_adapters[0]).detach()
        for path, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def our_changes(trained: TrainedAdapter, component: str) -> dict[str, Tensor]:
    """The differences of all matrices of a component in training."""
    return {
        path.removeprefix("text_model."): own.patch().difference(torch.empty(own.shape)).detach()
        for path, own in trained.layers[component].items()
    }


@pytest.mark.parametrize(
    ("family", "layout"), [*((family, "peft") for family in FAMILIES), ("tiny", "kohya"), ("xl", "kohya")]
)
def test_diffusers_reads_the_same_changes(
    family: str, layout: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    reference, denoiser, encoders = FAMILIES[family]
    load: Callable[[], Graph] = request.getfixturevalue(family)
    theirs = request.getfixturevalue(reference)().pipe
    if (family, layout) == ("tiny", "kohya"):  # diffusers 0.42.1 with transformers 5 fails at any `lora_te_text_model_`
        encoders = ()
    components = (denoiser, *encoders)
    trained = train_adapter(load(), components, rank=3, alpha=1.7, layout=layout)
    fill(trained)
    theirs.load_lora_weights(trained.save(tmp_path / "file.safetensors"))
    for component in components:
        ours, found = our_changes(trained, component), changes(getattr(theirs, component))
        assert found.keys() == ours.keys(), component
        assert all(torch.allclose(found[path], tensor, atol=1e-6) for path, tensor in ours.items())
    theirs.unload_lora_weights()


def test_kohyas_file_has_the_headers_that_others_read(tiny: Callable[[], Graph], tmp_path: Path) -> None:
    trained = train_adapter(tiny(), rank=3, alpha=1.5, layout="kohya")
    fill(trained)
    header = TrainingHeader(
        learning_rate=1e-4, steps=10, seed=7, resolution=(512, 768), bucket_info={"buckets": {"0": {"count": 3}}},
        tag_frequency={"fox": {"a fox": 3}}, mixed_precision="no", training_started_at=1.5, training_finished_at=2.5,
        base_model_version="sd_v1", more={"modelspec.author": "me"},
    )  # fmt: skip
    file = trained.save(tmp_path / "file.safetensors", header=header.entries())
    with safe_open(file, "pt") as opened:
        found = opened.metadata()
    whole = file.read_bytes()
    data = whole[8 + int.from_bytes(whole[:8], "little") :]
    assert found == {
        "format": "pt", "ss_network_module": "networks.lora", "ss_network_dim": "3", "ss_network_alpha": "1.5",
        "modelspec.sai_model_spec": "1.0.0", "modelspec.title": "trained",
        "ss_base_model_version": "sd_v1", "ss_learning_rate": "0.0001", "ss_steps": "10", "ss_seed": "7",
        "ss_resolution": "(512, 768)", "modelspec.resolution": "512x768", "ss_mixed_precision": "no",
        "ss_bucket_info": json.dumps({"buckets": {"0": {"count": 3}}}),
        "ss_tag_frequency": json.dumps({"fox": {"a fox": 3}}),
        "ss_training_started_at": "1.5", "ss_training_finished_at": "2.5", "modelspec.author": "me",
        "modelspec.date": "1970-01-01T00:00:02+00:00",
        "sshs_model_hash": hashlib.sha256(data).hexdigest(), "sshs_legacy_hash": found["sshs_legacy_hash"],
    }  # fmt: skip


def test_each_training_loads_what_it_saved(tiny: Callable[[], Graph], tmp_path: Path) -> None:
    pipe = tiny()
    adapter: TrainedAdapter = train_adapter(pipe, targets={"unet": ["attn2.*"]})
    whole: TrainedWhole = train_whole(pipe, ["vae"])
    both = TrainedTogether({"adapter": adapter, "whole": whole})
    fill(both)
    loaded = both.load(both.save(tmp_path / "both"))
    assert loaded["adapter"].kinds == {"LoRA": 16}
    assert digest(loaded["whole"]["vae"]) == digest(view_of(whole, "vae"))
    pipe.bind(loaded["whole"]).with_adapters(loaded["adapter"])


def test_targets_of_a_component_that_is_not_trained_are_refused(tiny: Callable[[], Graph]) -> None:
    with pytest.raises(ConfigError, match=r"^targets: text_encoder is not trained. Name it in components=.$"):
        train_adapter(tiny(), targets={"text_encoder": ["q_proj"]})
