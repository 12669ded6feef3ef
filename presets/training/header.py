"""The facts of a training that the header of its file has, under the names that other programs read."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...components.training.headers import TrainingHeader
from .data import TrainingData
from .namespaces import Divided
from .settings import Choice
from .trainer import Trainer


def header_of(trainer: Trainer, data: TrainingData, values: Divided, began: float) -> dict[str, str]:
    """The entries of the header of a trained file.

    Args:
        trainer: at its end.
        data: the pictures.
        values: the settings.
        began: when the training began, in seconds since 1970.
    """
    settings, rates = values.training, trainer.stepper.learning_rates
    sizes = data.sizes
    prior = sum(len(part.records) for part in data.parts if part.source.is_prior)
    buckets = {
        str(number): {"resolution": [columns, rows], "count": count}
        for number, ((rows, columns), count) in enumerate(sizes.items())
    }
    return TrainingHeader(
        learning_rate=next(iter(rates.values())),
        unet_lr=next((rate for name, rate in rates.items() if not name.startswith("text_encoder")), None),
        text_encoder_lr=next((rate for name, rate in rates.items() if name.startswith("text_encoder")), None),
        optimizer=_name(settings.optimizer),
        lr_scheduler=_name(settings.lr_schedule),
        lr_warmup_steps=settings.warmup,
        max_train_steps=trainer.steps,
        steps=trainer.step,
        epoch=trainer.stepper.position.epoch,
        num_train_images=len(data) - prior,
        num_reg_images=prior,
        num_batches_per_epoch=len(trainer.order.epoch(0)),
        batch_size_per_device=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        gradient_checkpointing=settings.gradient_checkpointing,
        mixed_precision=settings.mixed_precision,
        max_grad_norm=settings.max_gradient_norm,
        min_snr_gamma=_field(values.method.get("weight"), "snr_gamma"),
        noise_offset=values.method.get("noise_offset"),
        prior_loss_weight=values.method.get("prior_weight"),
        caption_dropout_rate=data.captions.dropout,
        seed=settings.seed,
        resolution=max(((columns, rows) for rows, columns in sizes), key=lambda size: size[0] * size[1], default=None),
        bucket_info={"buckets": buckets},
        tag_frequency=_tags(data),
        training_started_at=began,
        training_finished_at=time.time(),
    ).entries()


def _name(choice: Choice) -> str:
    return choice if isinstance(choice, str) else str(choice["name"])


def _field(choice: Any, name: str) -> Any:  # a setting of a method
    return choice.get(name) if isinstance(choice, Mapping) else None


def _tags(data: TrainingData) -> dict[str, dict[str, int]]:
    """How often each tag is in the captions of each source. A tag ends at the separator of the captions."""
    found: dict[str, dict[str, int]] = {}
    for part in data.parts:
        separator = (part.source.captions or data.captions).separator
        tags = Counter(
            tag.strip() for record in part.records for text in record.captions for tag in text.split(separator)
        )
        found[Path(part.source.title).name] = dict(tags)  # without the folders of this machine
    return found
