"""Read one component by its spec, or list the reasons why it cannot be loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...graph.errors import ConfigError, LoadError
from ...graph.files.faults import file_errors
from ...registry import models, schedulers
from ..models.base import Model
from ..quantization.config import GGUFQuantizationConfig, Quantization
from ..quantization.files import gguf_name, quantization_of
from ..quantization.method import missing_packages
from ..spec import ComponentSpec
from ..storage.building import on_meta
from ..storage.files import CONFIGS, WEIGHTS
from ..storage.fits import check_shapes
from ..storage.hub import Repo
from ..storage.location import Folder, Location, fetch_small_files
from ..storage.tensors import PICKLES, Tensors
from ..storage.weights import STEM, Device, move, weight_names
from .component_files import is_of_transformers, refuse_code, small_files_of
from .from_transformers import read_model, read_processor, refuse_adapter
from .open_tensors import open_tensors
from .single_file.checkpoint import open_checkpoint, tensors_in
from .tokenizer_base import FastTokenizer


def load_problems(spec: ComponentSpec) -> list[str]:
    """The reasons why a component cannot be loaded, a line each, by names and JSON files. Opens no weight file."""
    try:
        with file_errors(spec):
            return _load_problems(spec)
    except (LoadError, ConfigError) as error:
        return [str(error).removeprefix(f"{spec}: ")]


def _load_problems(spec: ComponentSpec) -> list[str]:
    kind = spec.type
    if spec.pretrained_model_name_or_path is None and spec.config is not None:
        makes = callable(getattr(kind, "from_config", None))  # a class of any library
        return [] if makes else [f"a {kind.__name__} is not made from a config. Pass the folder of its files."]
    if (file := spec.file) is not None:
        open_checkpoint(file, spec.access).part(spec.subfolder)
        return list(missing_packages(quantization_for(spec)))
    location = spec.location
    if isinstance(location, Folder) and not (folder := location.path / spec.subfolder).is_dir():
        folders = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        return [f"{folder}: there is no such folder. Beside it: {', '.join(folders) or 'none'}."]
    folder = fetch_small_files(location, spec.subfolder)
    refuse_code(location, spec.subfolder)
    if is_of_transformers(kind) and is_model(kind):
        refuse_adapter(folder)
    return list(_missing(spec, kind, location, folder)) or list(missing_packages(quantization_for(spec)))


def weight_problems(spec: ComponentSpec) -> list[str]:
    """The faults in the weights of a component, by the headers of its files.

    These are damage, and other names or shapes than its class has. Reads no tensor, and nothing of a repo whose weights
    are not on this machine.
    """
    try:
        with file_errors(spec):
            return _weight_problems(spec)
    except (LoadError, ConfigError) as error:
        return [str(error).removeprefix(f"{spec}: ")]


def _weight_problems(spec: ComponentSpec) -> list[str]:
    if not is_model(kind := spec.type) or spec.pretrained_model_name_or_path is None:
        return []
    if spec.file is None:
        names, location = weight_names_of(spec), spec.location
        if isinstance(location, Repo) and not all(location.has(spec.subfolder, name) for name in names):
            return []
        folder = location.local(spec.subfolder, names)
        tensors = open_tensors([folder / name for name in names], allow_pickle=spec.access.allow_pickle)
    else:
        tensors = None
    if is_of_transformers(kind) or quantization_for(spec) is not None:
        return []
    with on_meta():
        model = kind.from_config(spec.read_config())
    tensors = tensors_in(spec, model) if tensors is None else tensors
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    renamed = {stored: name for stored in tensors.shapes() if (name := model.published_name(stored)) is not None}
    check_shapes(kind.__name__, wanted, renamed, tensors)
    return []


def fetch(spec: ComponentSpec) -> Path:
    """The local folder with all files of a component. Those of a repo are fetched, unless the cache has them."""
    folder = spec.folder
    if is_model(spec.type):
        spec.location.local(spec.subfolder, weight_names_of(spec))
    return folder


def weight_names_of(spec: ComponentSpec) -> tuple[str, ...]:
    """The names of a model's weight files. Fetches an index of shards, but no weights. LoadError if there are none."""
    library, _ = spec.hint
    location = spec.location
    stem = "model" if library == "transformers" else STEM
    names = location.names(spec.subfolder)
    if (file := gguf_name(stem, spec.variant)) in names and isinstance(quantization_for(spec), GGUFQuantizationConfig):
        return (file,)
    if isinstance(location, Repo) and not location.online and not any(name.endswith(WEIGHTS) for name in names):
        raise LoadError(location.lacks(f"weights of {spec.subfolder or 'it'}"))
    return weight_names(
        names,
        f"{location.source}/{spec.subfolder}".rstrip("/"),
        lambda name: location.local(spec.subfolder, [name]) / name,
        stem=stem,
        variant=spec.variant,
        pickles=spec.access.allow_pickle,
    )


def read_component(spec: ComponentSpec, dtype: torch.dtype, device: Device) -> Any:  # an object of the spec's class
    """Load the component of a spec.

    Args:
        spec: where it comes from.
        dtype: the dtype of a model's floating tensors.
        device: one device, or a function from names of tensors and modules to devices.

    Returns:
        An object of the spec's class; a model is ready for inference.

    Raises:
        LoadError: missing or damaged files, or files that do not fit the class.
    """
    kind = spec.type
    try:
        if spec.pretrained_model_name_or_path is None and spec.config is not None:
            made = kind.from_config(dict(spec.config))
            if isinstance(made, nn.Module):
                move(made.to(dtype=dtype).eval(), device)
            return made
        if spec.file is not None:
            return _read_part(spec, kind, dtype, device)
        refuse_code(spec.location, spec.subfolder)
        folder = fetch(spec)
        quantization = quantization_for(spec)
        if is_of_transformers(kind):
            if not is_model(kind):
                return read_processor(kind, folder)
            assert not callable(device)  # `model_without_weights` refuses these classes
            return read_model(kind, spec, folder, weight_names_of(spec), dtype, device)
        if not is_model(kind):
            config: Mapping[str, Any] = {"config": spec.config} if spec.config is not None else {}
            return kind.from_pretrained(folder, **config)
        if any(name.endswith(PICKLES) for name in weight_names_of(spec)) or spec.config is not None:
            tensors = open_tensors(
                [folder / name for name in weight_names_of(spec)], allow_pickle=spec.access.allow_pickle
            )
            return made_of(kind, spec.read_config(), tensors, dtype, device, quantization)
        more: Mapping[str, Any] = {} if quantization is None else {"quantization": quantization}
        return kind.from_pretrained(folder, variant=spec.variant, dtype=dtype, device=device, **more)
    except ConfigError as error:
        raise LoadError(f"{spec}: {error}") from error


def made_of(
    kind: Any,
    config: Mapping[str, Any],
    tensors: Tensors,
    dtype: torch.dtype,
    device: Device,
    quantization: Quantization | None = None,
) -> Any:  # any class with `from_config`, and an object of it
    """A model of our own class with these weights, ready for inference. `quantization` says how it holds them."""
    with on_meta():
        model = kind.from_config(config)
    model.load(tensors, dtype=dtype, device=device, quantization=quantization)
    return model.eval().requires_grad_(False)


def model_without_weights(spec: ComponentSpec) -> nn.Module | str:
    """The model of a spec on the meta device; or a text that says why its tensors are unknown before it is read."""
    kind = spec.type
    if not is_model(kind):
        return f"is a {kind.__name__}, which has no weights"
    if is_of_transformers(kind):
        return f"is a {kind.__name__}, which transformers reads as a whole"
    if (quantization := quantization_for(spec)) is not None:
        return f"is quantized by {quantization.quant_method}, which is read as a whole"
    with on_meta():
        return kind.from_config(spec.read_config())


def quantization_for(spec: ComponentSpec) -> Quantization | None:
    """The quantization of a component: of its files, or the one its spec names. ConfigError if it has no weights."""
    if is_model(spec.type):
        quantization = quantization_of(spec.read_config(), spec.quantization)
        packed = spec.file is not None and spec.file.suffix == ".gguf"
        return GGUFQuantizationConfig() if packed and quantization is None else quantization
    if spec.quantization is not None:
        raise ConfigError(f"quantization: a {spec.type.__name__} has no weights to quantize. Leave it None.")
    return None


def _read_part(spec: ComponentSpec, kind: Any, dtype: torch.dtype, device: Device) -> Any:  # kind: a class of ours
    """A model that is one part of a single file."""
    if not (isinstance(kind, type) and issubclass(kind, Model)):
        raise LoadError(f"{spec}: a {kind.__name__} is not read from a single file. Pass a folder.")
    with on_meta():
        model = kind.from_config(spec.read_config())
    model.load(tensors_in(spec, model), dtype=dtype, device=device, quantization=quantization_for(spec))
    return model.eval().requires_grad_(False)


def _missing(spec: ComponentSpec, kind: Any, location: Location, folder: Path) -> Iterator[str]:  # kind: any class
    names = set(location.names(spec.subfolder))
    library, name = spec.hint
    if is_model(kind):
        try:
            stated = spec.read_config().get("_class_name")
            # transformers' files have no such key, and several of its classes may read one file.
            fits = stated in (None, kind.__name__) or models.find(str(stated)) is kind  # some have an older name too
            if library != "transformers" and not fits:
                yield f"{folder / 'config.json'}: this is a {stated}, and type_hint says {name}. Change one of them."
        except LoadError as error:
            yield str(error)
        try:
            weight_names_of(spec)
        except LoadError as error:
            yield str(error)
        return
    if name in schedulers:
        wanted: tuple[str, ...] = ("scheduler_config.json",)
    elif _is_tokenizer(kind):  # our tokenizers need all files of one group
        groups = {" with ".join(group): set(group) for group in kind.files}
        wanted = tuple(groups)
        names |= {text for text, group in groups.items() if group <= names}
    else:
        wanted = small_files_of(kind) or CONFIGS[1:]
    if not names.intersection(wanted):
        yield f"{folder}: no {' or '.join(wanted)}, which a {name} is read from. It has: {', '.join(sorted(names))}."


def is_model(kind: Any) -> bool:  # a class of any library
    """Whether a class is a torch module."""
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def _is_tokenizer(kind: Any) -> bool:  # a class of any library
    return isinstance(kind, type) and issubclass(kind, FastTokenizer)
