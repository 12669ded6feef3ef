"""The accelerator of a training: device, precision, processes and trackers, all of accelerate."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...graph import ConfigError
from ...graph.validate import value_text
from ...registry import did_you_mean
from .settings import TrainingSettings
from .sharding import check_sharding

if TYPE_CHECKING:
    from accelerate import Accelerator

LOGS = "logs"
"""The folder of the trackers in the output folder."""


def make_accelerator(
    settings: TrainingSettings, output: Path | None = None, device: str | None = None
) -> "Accelerator":
    """Make the accelerator that a training uses.

    What `accelerate launch` and its config file set (processes, devices, precision) holds, because accelerate reads it
    from the environment.

    Args:
        settings: those of the training.
        output: the folder for trackers; without one nothing is tracked.
        device: the device where the settings have none, such as that of the preset.

    Raises:
        ConfigError: a precision that the device does not have, trackers that are not installed, or a config of
            FSDP or DeepSpeed that cannot be used; see `check_sharding`.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from torch import distributed

    device = settings.device or device
    wanted = _device(device)
    trackers: list[Any] = [*_trackers(settings)] if output is not None else []
    # accelerate keeps one state in each process, and it refuses another precision or device in a second training.
    AcceleratorState._reset_state(reset_partial_state=not (distributed.is_available() and distributed.is_initialized()))
    try:
        made = Accelerator(
            cpu=wanted is not None and wanted.type == "cpu",
            mixed_precision=settings.mixed_precision,
            log_with=trackers or None,
            project_dir=output,
        )
    except ValueError as error:
        raise ConfigError(f"mixed_precision {settings.mixed_precision!r} or device {device!r}: {error}") from error
    if settings.device is not None and wanted is not None and not _is(wanted, made):
        raise ConfigError(
            f"device: {settings.device!r} was passed, and accelerate uses {str(made.device)!r}. Pass that one; "
            "environment variables such as CUDA_VISIBLE_DEVICES choose another."
        )
    if settings.mixed_precision != "no" and not made.native_amp:
        raise ConfigError(
            f"mixed_precision: {settings.mixed_precision!r} needs another device than "
            f"{made.device}. Pass 'bf16', or 'no'."
        )
    check_sharding(made)
    return made


def _device(text: str | None) -> torch.device | None:
    """The device of a text. ConfigError for one that names none."""
    try:
        return None if text is None else torch.device(text)
    except RuntimeError:
        raise ConfigError(f"device: needs a device of torch such as 'cuda' or 'cpu', got {value_text(text)}.") from None


def _is(wanted: torch.device, accelerator: "Accelerator") -> bool:
    """Whether an accelerator uses a device. With several processes, each has an index of its own."""
    used, numbered = accelerator.device, ":" in str(wanted) and accelerator.num_processes == 1
    return wanted.type == used.type and not (numbered and wanted.index != (used.index or 0))


@contextmanager
def tracking(accelerator: "Accelerator", output: Path | None) -> Generator[None]:
    """Let the trackers of an accelerator write into the output folder, if there is one."""
    if output is None or not accelerator.log_with:
        yield
        return
    accelerator.init_trackers(LOGS)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # `end_training` would end the processes' connection too
            tracker.finish()


def _trackers(settings: TrainingSettings) -> tuple[str, ...]:
    """The names of the trackers. ConfigError for one that is unknown or not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = [str(each) for each in get_available_trackers()]
    if settings.trackers is None:
        return ("tensorboard",) if "tensorboard" in available else ()
    for name in settings.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(f"trackers: {name!r} is unknown. {did_you_mean(name, map(str, LOGGER_TYPE_TO_CLASS))}")
        if name not in available:
            pip = '"sfumato[train]"' if name == "tensorboard" else name
            raise ConfigError(f"trackers: needs the package {name}. Install it: pip install {pip}")
    return settings.trackers
