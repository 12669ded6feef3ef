"""One component from its spec, whatever it is: what is missing for it, and reading it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...graph.errors import ConfigError, LoadError
from ...registry import schedulers
from ..spec import ComponentSpec
from .files import CONFIGS, TOKENIZERS, read_json
from .tokenizer_base import FastTokenizer
from .weights import STEM, weight_files


def problems(spec: ComponentSpec) -> list[str]:
    """What would keep a component from loading, as far as names and JSON files tell. No weight file is opened."""
    try:
        kind = spec.type
        if spec.config is not None:
            fits = hasattr(kind, "from_config")
            return [] if fits else [f"a {kind.__name__} is not made from a config. Give the folder of its files."]
        folder = spec.folder
    except LoadError as error:
        return [str(error).removeprefix(f"{spec}: ")]
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        return [f"{folder}: there is no such folder. Beside it: {', '.join(beside) or 'none'}."]
    return list(_missing(spec, kind, folder))


def read_component(spec: ComponentSpec, dtype: torch.dtype, device: str) -> Any:  # an object of the spec's class
    """The object that a spec describes; models in `dtype` on `device`, ready for inference. LoadError otherwise."""
    kind = spec.type
    try:
        if spec.config is not None:
            made = kind.from_config(dict(spec.config))
            return made.to(device=device, dtype=dtype).eval() if isinstance(made, nn.Module) else made
        folder = spec.folder
        if _of_transformers(kind):
            return _read_transformers(kind, folder, spec.variant, dtype, device)
        if _is_model(kind):
            return kind.from_pretrained(folder, variant=spec.variant, dtype=dtype, device=device)
        return kind.from_pretrained(folder)
    except ConfigError as error:
        raise LoadError(f"{spec}: {error}") from error


def _missing(spec: ComponentSpec, kind: Any, folder: Path) -> Iterator[str]:  # kind: a class of any library
    names = {p.name for p in folder.iterdir()}
    library, name = spec.type_hint or ("", kind.__name__)
    if _is_model(kind):
        try:
            found = read_json(folder / "config.json").get("_class_name")
            # transformers' files have no such key, and one file may serve several of its classes.
            if library != "transformers" and found not in (None, name):
                yield f"{folder / 'config.json'}: this is a {found}, and type_hint says {name}. Change one of them."
        except LoadError as error:
            yield str(error)
        try:
            weight_files(folder, stem="model" if library == "transformers" else STEM, variant=spec.variant)
        except LoadError as error:
            yield str(error)
        return
    if name in schedulers:
        wanted: tuple[str, ...] = ("scheduler_config.json",)
    elif _is_tokenizer(kind):  # ours is read from one of these groups, and nothing else makes up for them
        groups = {" with ".join(group): set(group) for group in kind.files}
        wanted = tuple(groups)
        names |= {text for text, group in groups.items() if group <= names}
    elif library == "transformers":
        wanted = (*TOKENIZERS, "preprocessor_config.json", "processor_config.json")
    else:
        wanted = CONFIGS[1:]
    if not names.intersection(wanted):
        yield f"{folder}: no {' or '.join(wanted)}, which a {name} is read from. It has: {', '.join(sorted(names))}."


def _read_transformers(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype, device: str) -> Any:
    # Any: transformers' classes have nothing in common that is typed.
    try:
        if not _is_model(kind):
            return kind.from_pretrained(str(folder), local_files_only=True)
        model, told = kind.from_pretrained(
            str(folder),
            variant=variant,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise LoadError(f"{folder}: transformers' {kind.__name__} cannot read it: {error}") from error
    if missing := sorted(told["missing_keys"]):
        # transformers fills them with random numbers and goes on.
        some = ", ".join(missing[:8]) + (f" … ({len(missing)} in all)" if len(missing) > 8 else "")
        raise LoadError(
            f"{folder}: the weights lack {some}, which a {kind.__name__} has. Is type_hint the right class?"
        )
    return model.to(device).eval().requires_grad_(False)


def _is_model(kind: Any) -> bool:  # a class of any library
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def _is_tokenizer(kind: Any) -> bool:  # a class of any library
    return isinstance(kind, type) and issubclass(kind, FastTokenizer)


def _of_transformers(kind: Any) -> bool:  # a class of any library
    return kind.__module__.partition(".")[0] == "transformers"
