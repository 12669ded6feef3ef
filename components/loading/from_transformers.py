"""Components that the transformers library reads. It never sees their folder: it gets one that is made here and has
only the files that the class reads, after they were checked."""

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ...graph.errors import ConfigError, LoadError
from ...graph.limits import check_limit
from ..quantization.files import for_transformers, quantization_of
from ..spec import ComponentSpec
from ..storage.files import read_json, read_lines, write_json, write_text
from ..storage.tensors import SafetensorFiles, Tensors
from .component_files import VOCABULARIES, named_code, small_files_of

_SETTINGS = frozenset(
    {
        "_attn_implementation", "_attn_implementation_internal", "_experts_implementation",
        "_experts_implementation_internal", "_name_or_path", "attn_implementation", "custom_generate",
        "distributed_config", "dtype", "experts_implementation", "fusion_config", "init_inputs", "is_local",
        "kernel_config", "local_files_only", "model_proto", "name_or_path", "tp_plan", "torch_dtype",
        "transformers_weights", "trust_remote_code", "use_kernels",
    }
)  # fmt: skip
"""Keys that choose how and from where transformers reads and runs. A program chooses that, and a file does not."""
_PATHS = ("_dir", "_file", "_files", "_path")
"""Ends of keys that name a file. The names of files are those of the class, whatever a config says."""


def read_model(
    kind: Any, spec: ComponentSpec, folder: Path, weights: Sequence[str], dtype: torch.dtype, device: str | torch.device
) -> Any:  # kind, result: a model of transformers
    """A model of transformers, ready for inference.

    Args:
        kind: its class.
        spec: its config and quantization.
        folder: the local folder of its files.
        weights: the names of its safetensors files there.
        dtype: the dtype of its floating tensors.
        device: where it is needed.

    Raises:
        LoadError: files that are damaged, that do not fit the class, or that transformers cannot read.
    """
    if others := [name for name in weights if not name.endswith(".safetensors")]:
        raise LoadError(f"{folder / others[0]}: a {kind.__name__} is read from .safetensors files alone.")
    refuse_adapter(folder)
    settings: dict[str, Any] = for_transformers(spec.quantization, str(device))
    tensors = SafetensorFiles([folder / name for name in weights])  # refuses damaged headers
    with torch.device("meta"):
        _check_size(model_of_config(kind, spec, folder, tensors), folder, tensors)
    with _checked_folder() as made, _errors(kind, folder):
        write_json(made / "config.json", _config(spec, folder, tensors))
        _link_weights(made, tensors)
        model, info = kind.from_pretrained(
            str(made),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **settings,
        )
    model.name_or_path = model.config._name_or_path = str(folder)
    if missing := sorted(info["missing_keys"]):
        # transformers fills them with random numbers and continues.
        some = ", ".join(missing[:8]) + (f" … ({len(missing)} in all)" if len(missing) > 8 else "")
        raise LoadError(
            f"{folder}: the weights lack {some}, which a {kind.__name__} has. Is type_hint the right class?"
        )
    return (model if spec.quantization else model.to(device)).eval().requires_grad_(False)


def refuse_adapter(folder: Path) -> None:
    """Raise LoadError for an adapter beside a model: transformers would read the model that it names, and apply it."""
    if (file := folder / "adapter_config.json").is_file():
        raise LoadError(
            f"{file}: an adapter beside a model is not read. Merge it into the weights, or remove its files."
        )


def model_of_config(kind: Any, spec: ComponentSpec, folder: Path, tensors: Tensors) -> Any:  # a model, and its class
    """The model of a config, with fresh weights on the device of the context. LoadError if the config does not fit.

    `tensors` are those of its files. They limit the number of its layers.
    """
    with _errors(kind, folder):
        return kind(kind.config_class.from_dict(_config(spec, folder, tensors)))


def read_processor(kind: Any, folder: Path) -> Any:  # a class of transformers without weights, and an object of it
    """A tokenizer or image processor of transformers. LoadError for files that it cannot read."""
    names = [name for name in small_files_of(kind) or () if (folder / name).is_file()]
    with _checked_folder() as made, _errors(kind, folder):
        for name in names:
            if name.endswith(".json") and name not in VOCABULARIES:
                write_json(made / name, _without_settings(read_json(folder / name), folder / name))
            elif name.endswith(".model"):
                check_limit("pieces_bytes", (folder / name).stat().st_size)
                shutil.copyfile(folder / name, made / name)
            else:
                write_text(made / name, "\n".join(read_lines(folder / name, "vocabulary_bytes")))
        return kind.from_pretrained(str(made), local_files_only=True, trust_remote_code=False)


@contextmanager
def _checked_folder() -> Generator[Path]:
    """A private folder to read from. transformers may neither ask on standard input, nor wait for an answer."""
    asking: Any = import_module("transformers.dynamic_module_utils")
    seconds = asking.TIME_OUT_REMOTE_CODE
    asking.TIME_OUT_REMOTE_CODE = 0
    try:
        with TemporaryDirectory(prefix="sfumato-") as made:
            yield Path(made)
    finally:
        asking.TIME_OUT_REMOTE_CODE = seconds


@contextmanager
def _errors(kind: Any, folder: Path) -> Generator[None]:  # a class of transformers
    """Raise any error of transformers as a LoadError. Its own advice about remote code is left out."""
    try:
        yield
    except (ConfigError, LoadError):
        raise
    except Exception as error:  # transformers checks little, so that a config may cause any exception
        reason = " ".join(str(error).split()).partition("trust_remote_code")[0]
        raise LoadError(
            f"{folder}: transformers' {kind.__name__} cannot read it ({type(error).__name__}: {reason[:400]}). "
            "Fetch the folder again, or check that type_hint is its class."
        ) from error


def _check_size(model: Any, folder: Path, tensors: Tensors) -> None:  # a model of transformers
    """Raise LoadError for a model that is far larger than its files. Packed weights have 16 numbers in one at most."""
    wanted = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    stored = sum(prod(shape) for shape in tensors.shapes().values())
    if wanted > 16 * stored + 2**24:
        raise LoadError(
            f"{folder / 'config.json'}: describes a model of {wanted:,} numbers, and its weights have {stored:,}. "
            "Use the config of these weights."
        )


def _link_weights(made: Path, tensors: SafetensorFiles) -> None:
    """Put weight files into a folder, as links, with an index of their tensors if they are several."""
    files = tensors.files
    for file in files:
        target = made / ("model.safetensors" if len(files) == 1 else file.name)
        try:
            target.symlink_to(file.resolve())
        except OSError:  # Windows, where only some users may make links
            os.link(file.resolve(), target)
    if len(files) > 1:
        names = {name: Path(tensors.where(name)).name for name in tensors.shapes()}
        write_json(made / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})


def _config(spec: ComponentSpec, folder: Path, tensors: Tensors) -> dict[str, Any]:  # JSON values
    """The config of a model, without settings. LoadError if it names code, more layers than its files have tensors, or
    weights quantized in an unknown way."""
    config, count = spec.read_config(), len(tensors.shapes())
    for key, value in config.items():
        if "layer" in key and isinstance(value, int) and value > count:
            raise LoadError(
                f"{folder / 'config.json'}: {key} is {value:,}, and the weights have {count:,} tensors. Use the config "
                "of these weights."
            )
    if quantization_of(config, spec.quantization) is None:
        config.pop("quantization_config", None)
    return _without_settings(config, folder / "config.json")


def _without_settings(config: dict[str, Any], file: Path) -> dict[str, Any]:  # JSON values
    """A config without the keys that choose code, files and devices. LoadError for one that names code."""
    for place, _ in named_code(config):
        raise LoadError(f"{file}: {place} names code, and no code beside a component is run. Use a folder without it.")
    return {key: _plain(value, file) for key, value in config.items() if not _is_setting(key)}


def _plain(value: Any, file: Path) -> Any:  # a JSON value
    if isinstance(value, dict):
        return _without_settings(value, file)
    return [_plain(item, file) for item in value] if isinstance(value, list) else value


def _is_setting(key: str) -> bool:
    return key in _SETTINGS or key.endswith(_PATHS)
