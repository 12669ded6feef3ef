"""The entries of a file's header by which other programs know how an adapter was trained."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from safetensors.torch import save
from torch import Tensor

BASE_VERSIONS: Mapping[str, str] = {
    "stable-diffusion-v1": "sd_v1", "stable-diffusion-v2-512": "sd_v2",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0", "flux-1-dev": "flux1",
}  # fmt: skip
"""The names of families in kohya's scripts, by those of Stability's modelspec."""
_LEGACY_START, _LEGACY_BYTES, _LEGACY_DIGITS = 0x100000, 0x10000, 8
"""The first hash of A1111's web UI is of these bytes of a file."""


@dataclass(frozen=True, kw_only=True)
class TrainingHeader:
    """The facts of a training, under the names of kohya's scripts without their prefix `ss_`; None for unknown ones.

    started, finished: seconds since 1970. resolution: (width, height). tag_frequency: the count of each tag by folder.
    bucket_info: the pictures of each bucket. args: further settings of the kind of adapter.
    """

    base_model_version: str | None = None
    sd_model_name: str | None = None
    sd_model_hash: str | None = None
    output_name: str | None = None
    learning_rate: float | None = None
    unet_lr: float | None = None
    text_encoder_lr: float | None = None
    optimizer: str | None = None
    lr_scheduler: str | None = None
    lr_warmup_steps: int | None = None
    max_train_steps: int | None = None
    steps: int | None = None
    epoch: int | None = None
    num_epochs: int | None = None
    num_train_images: int | None = None
    num_reg_images: int | None = None
    num_batches_per_epoch: int | None = None
    batch_size_per_device: int | None = None
    gradient_accumulation_steps: int | None = None
    gradient_checkpointing: bool | None = None
    mixed_precision: str | None = None
    max_grad_norm: float | None = None
    min_snr_gamma: float | None = None
    noise_offset: float | None = None
    prior_loss_weight: float | None = None
    caption_dropout_rate: float | None = None
    seed: int | None = None
    resolution: tuple[int, int] | None = None
    bucket_info: Mapping[str, Any] | None = None
    tag_frequency: Mapping[str, Mapping[str, int]] | None = None
    network_args: Mapping[str, Any] | None = None
    training_started_at: float | None = None
    training_finished_at: float | None = None
    training_comment: str | None = None
    more: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further entries, with their whole names."""

    def entries(self) -> dict[str, str]:
        """The entries of a header. Those of unknown facts are missing."""
        found = {
            f"ss_{f.name}": text
            for f in fields(self)
            if f.name != "more" and (text := _text(getattr(self, f.name))) is not None
        }
        if self.resolution is not None:
            found["modelspec.resolution"] = "x".join(map(str, self.resolution))
        if self.training_finished_at is not None:
            finished = datetime.fromtimestamp(self.training_finished_at, UTC)
            found["modelspec.date"] = finished.isoformat(timespec="seconds")
        return {**found, **self.more}


def _text(value: Any) -> str | None:  # a value of a field
    """A value as kohya's scripts write it."""
    match value:
        case None | str():
            return value
        case tuple():
            return f"({', '.join(map(str, value))})"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case Mapping():
            return json.dumps(value)
        case _:
            return str(value)


def hashes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, str]:
    """The hashes by which A1111's web UI knows the file: of its tensors alone, and of a part of its bytes."""
    whole = save(dict(tensors), {key: value for key, value in header.items() if key.startswith("ss_")})
    data = whole[8 + int.from_bytes(whole[:8], "little") :]
    part = whole[_LEGACY_START : _LEGACY_START + _LEGACY_BYTES]
    return {
        "sshs_model_hash": hashlib.sha256(data).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(part).hexdigest()[:_LEGACY_DIGITS],
    }
