"""From which checkpoint a training goes on, and whether its settings allow that."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...graph import ConfigError, LoadError
from ...registry.log import LOG
from .batches import Position
from .checkpoint import Checkpoint, checkpoints_in, read_checkpoint
from .settings import TrainingSettings

FIXED = ("batch_size", "accumulation", "seed", "draws", "optimizer", "ema")
"""Settings without whose old values a checkpoint has no meaning."""
FREE = (
    "steps", "epochs", "gradient_checkpointing", "device", "validate_every", "sample_every", "samples", "save_every",
    "keep", "resume", "trackers",
)  # fmt: skip
"""Settings that change nothing in the steps that were made."""

Parts = Mapping[str, Any]  # Any: stored values


def read_parts(checkpoint: Checkpoint, process: int) -> tuple[Parts, Parts]:
    """All parts of a checkpoint that processes share, and the part of one process. LoadError if one is broken."""
    names = [file.stem for file in checkpoint.folder.glob("*.safetensors") if not file.stem.startswith("process-")]
    return {name: checkpoint.part(name) for name in names}, checkpoint.part(f"process-{process}")


def find_checkpoint(
    resume: str | Path | None, folder: Path | None, process: int
) -> tuple[Checkpoint, Parts, Parts] | None:
    """The checkpoint of the setting `resume` with its parts; None where training starts at step 0.

    With "auto" it is the newest one in the folder that is whole.

    Raises:
        ConfigError: "auto" without a folder.
        LoadError: the passed checkpoint is broken, or no checkpoint.
    """
    if resume is None:
        return None
    if resume != "auto":
        checkpoint = read_checkpoint(Path(resume))
        return checkpoint, *read_parts(checkpoint, process)
    if folder is None:
        raise ConfigError('resume="auto" needs an output folder. Pass output=.')
    for checkpoint in reversed(checkpoints_in(folder)):
        try:
            return checkpoint, *read_parts(checkpoint, process)
        except LoadError as error:
            LOG.warning("%s", error)
    return None


def check_resumable(checkpoint: Checkpoint, settings: TrainingSettings, facts: Mapping[str, Any]) -> None:
    """Compare the settings with those of a checkpoint. Those that change the further steps are a warning.

    Args:
        checkpoint: the one that is resumed.
        settings: the present ones.
        facts: the number of processes and of batches in an epoch, which must be the same too.

    Raises:
        ConfigError: another value of a setting without which the checkpoint has no meaning.
    """
    now, before = plain_settings(settings), checkpoint.settings
    fixed = {name: (before.get(name), now[name]) for name in FIXED}
    fixed |= {name: (checkpoint.facts.get(name), value) for name, value in facts.items()}
    different = [f"{name} was {old!r} and is {new!r}" for name, (old, new) in fixed.items() if old != new]
    if different:
        raise ConfigError(
            f"{checkpoint.folder}: cannot be resumed, because {', '.join(different)}. Pass the old values, or train "
            f"into another output folder."
        )
    others = [name for name in now if name not in (*FIXED, *FREE) and before.get(name) != now[name]]
    if others:
        texts = ", ".join(f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in others)
        LOG.warning("%s: resumed with other settings: %s.", checkpoint.folder, texts)


def check_no_later(folder: Path, start: Position) -> None:
    """Raise ConfigError for a folder with checkpoints after the position at which a training starts."""
    later = [each for each in checkpoints_in(folder) if each.position > start]
    if later:
        raise ConfigError(
            f"{folder}: has the checkpoints of another training, up to step {later[-1].position.step}. Pass "
            'resume="auto" to go on with that one, or pass another output folder.'
        )


def check_trained(checkpoint: Checkpoint, now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Raise ConfigError for a checkpoint of other weights than those that are trained now."""
    sizes, old = ({name: tuple(each.shape) for name, each in some.items()} for some in (now, before))
    if sizes == old:
        return
    name = min(name for name in sizes | old if sizes.get(name) != old.get(name))
    was, now_is = (f"the shape {some[name]}" if name in some else "missing" for some in (old, sizes))
    raise ConfigError(
        f"{checkpoint.folder}: is of another training: {name} was {was}, and is now {now_is}. Pass the old settings of "
        "the method, or train into another output folder."
    )


def plain_settings(settings: TrainingSettings) -> dict[str, Any]:
    """The settings as JSON values."""
    return {name: _plain(value) for name, value in asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
