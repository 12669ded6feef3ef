"""The record of a training: a file in the output folder with the arguments of `sf.train`, for resuming."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...graph import ConfigError, LoadError
from ...graph.json_text import JsonTextError, pretty, read
from ...graph.saving import saving_file
from ...registry.log import LOG

RECORD, FORM = "training.json", "sfumato training record 1"


def write_record(folder: Path, arguments: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write how the training was started. Objects that no file can have are written as None."""
    record = {
        "form": FORM,
        "arguments": _without_paths(arguments),
        "settings": _without_paths({n: v for n, v in settings.items() if v is not None and n != "resume"}),
    }
    try:
        text = pretty(record)
    except (TypeError, ValueError):
        text = pretty({"form": FORM, "arguments": None, "settings": None})
    with saving_file(folder / RECORD) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def warn_of_changes(folder: Path, settings: Mapping[str, Any], method: Iterable[str]) -> None:
    """Log the settings of a method that differ from those with which the training in a folder was started."""
    try:
        before, now = read_record(folder), _without_paths(settings)
    except (LoadError, ConfigError):
        return
    names = [name for name in method if before.get(name) != now.get(name)]
    if names:
        texts = ", ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)
        LOG.warning("%s: resumed with other settings: %s.", folder, texts)


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:  # Any: arguments of a user
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def read_record(folder: str | Path) -> dict[str, Any]:
    """The arguments with which the training in a folder was started. Raises as `resume_training`."""
    file = Path(folder) / RECORD
    try:
        record = read(file, "config_bytes")
        if record["form"] != FORM:
            raise LoadError(f"{file}: its form is {record['form']!r}, and this version reads {FORM!r}.")
        if record["arguments"] is None:
            raise ConfigError(
                f"{file}: the training was started in Python, with objects that no file has. Call sf.train again with "
                'the same arguments and resume="auto".'
            )
        return {**record["arguments"], **record["settings"]}
    except OSError as error:
        raise LoadError(f"{file}: cannot be read ({error.strerror or error}). Pass the output folder.") from None
    except (JsonTextError, KeyError, TypeError) as error:
        raise LoadError(f"{file}: is broken: {error}. Start the training again.") from None
