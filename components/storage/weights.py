"""Weights in safetensors files: find the files, read them into a model, write them."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...graph.errors import LoadError, SaveError
from ...graph.limits import AboveLimit, check_limit
from ...graph.saving import Draft
from .files import read_json
from .fits import check_numbers, check_shapes, shown_names
from .tensors import PICKLES, SafetensorFiles, Tensors

STEM = "diffusion_pytorch_model"
_PICKLED = {"model": "pytorch_model"}  # transformers' name for pickles
Device = str | torch.device | Callable[[str], str]
"""One device, or a function from the name of a tensor or module to its device."""


def weight_files(
    folder: str | Path, *, stem: str = STEM, variant: str | None = None, pickles: bool = False
) -> tuple[Path, ...]:
    """The weight files of a model in a folder, by their names. See `weight_names`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise LoadError(f"{folder} is not a folder, so it has no weights.")
    all_names = [path.name for path in folder.iterdir() if path.is_file()]
    names = weight_names(all_names, folder, lambda name: folder / name, stem=stem, variant=variant, pickles=pickles)
    return tuple(folder / name for name in names)


def weight_names(
    names: Collection[str],
    place: str | Path,
    local: Callable[[str], Path],
    *,
    stem: str = STEM,
    variant: str | None = None,
    pickles: bool = False,
) -> tuple[str, ...]:
    """The names of a model's weight files among those of a folder.

    That is one file `stem[.variant].safetensors`, or the shards that an index names. A variant's index is published as
    `stem.safetensors.index.variant.json`; `stem.variant.safetensors.index.json` is read as well.

    Args:
        names: the names of all files of the folder.
        place: the folder, for errors.
        local: a function from a name to the local file, called for an index of shards.
        stem: "model" for files of transformers.
        variant: such as "fp16".
        pickles: whether `.bin` files may be used if there are no safetensors.

    Raises:
        LoadError: no such files, a shard that is missing or has an unsafe name, or pickles only.
    """
    single, indexes = f"{_named(stem, variant)}.safetensors", _index_names(stem, variant)
    if single in names:
        return (single,)
    for index in indexes:
        if index in names:
            return _shards(local(index), place, names, ".safetensors")
    if pickles:
        older = _PICKLED.get(stem, stem)
        for name in (f"{older}.{variant}.bin", f"{older}.bin") if variant else (f"{older}.bin",):
            if name in names:
                return (name,)
            if f"{name}.index.json" in names:
                return _shards(local(f"{name}.index.json"), place, names, ".bin")
    raise LoadError(_nothing_found(place, names, variant, (single, *indexes)))


def load_weights(
    model: nn.Module,
    files: Sequence[Path],
    *,
    dtype: torch.dtype | None = None,
    device: Device = "cpu",
    rename: Callable[[str], str | None] = lambda name: name,
    stays_float32: Callable[[str], bool] = lambda name: False,
) -> None:
    """Load safetensors files into a model that was made under `on_meta`, one tensor after another.

    Names and shapes are compared before the first tensor is read. Peak memory is the weights and one tensor. The weight
    of a 1x1 convolution fits a linear layer, and the reverse.

    Args:
        model: its weights are on the meta device.
        files: safetensors files.
        dtype: the dtype of floating tensors; None for that of the files.
        device: one device, or a function from a tensor's name to its device.
        rename: a function from a name in a file to the model's name, or to None for a tensor to ignore.
        stays_float32: whether a tensor is kept in float32 when `dtype` is float16, because its values overflow.

    Raises:
        LoadError: a damaged file; missing or unexpected tensors, or other shapes, with their names.
    """
    load_tensors(model, SafetensorFiles(files), dtype=dtype, device=device, rename=rename, stays_float32=stays_float32)


def load_tensors(
    model: nn.Module,
    tensors: Tensors,
    *,
    dtype: torch.dtype | None = None,
    device: Device = "cpu",
    rename: Callable[[str], str | None] = lambda name: name,
    stays_float32: Callable[[str], bool] = lambda name: False,
) -> None:
    """Load any source of tensors into a model; see `load_weights`."""
    device_of = _device_of(device)
    state = model.state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    names = {stored: name for stored in tensors.shapes() if (name := rename(stored)) is not None}
    check_shapes(type(model).__name__, wanted, names, tensors)
    loaded: dict[str, Tensor] = {}
    for stored, name in names.items():
        tensor = tensors.read(stored)
        check_numbers(state[name], tensor, stored, tensors)
        kind = dtype if tensor.is_floating_point() else None
        if kind == torch.float16 and stays_float32(name):
            kind = torch.float32
        loaded[name] = tensor.to(device=device_of(name), dtype=kind).reshape(wanted[name])
    for path, module in model.named_modules():  # `load_state_dict` would take a quarter of the loading time
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(loaded[prefix + name], requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:  # a buffer that no file has was made with the model
                module._buffers[name] = loaded[prefix + name] if prefix + name in loaded else buffer.to(device_of(path))


def move(model: nn.Module, device: Device) -> None:
    """Move all tensors of a model to a device, or each to its own."""
    if not callable(device):
        model.to(device)
        return
    for path, module in model.named_modules():
        target = torch.device(device(path))
        module._apply(partial(Tensor.to, device=target), recurse=False)


def _device_of(device: Device) -> Callable[[str], str | torch.device]:
    def same(name: str) -> str | torch.device:
        return cast("str | torch.device", device)

    return device if callable(device) else same


def save_weights(
    tensors: Mapping[str, Tensor],
    draft: Draft,
    *,
    stem: str = STEM,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as `stem[.variant].safetensors`, or as shards with an index where they exceed `max_shard_size`.

    Files of an earlier save with the same stem and variant are removed.

    Args:
        tensors: by name.
        draft: of the folder that is saved.
        stem: the beginning of the file names; "model" for transformers.
        variant: such as "fp16".
        max_shard_size: bytes, or a text such as "500MB" or "10GB".
        metadata: entries for the header of each file.

    Raises:
        SaveError: a tensor on the meta device, which has no values.
        ValueError: a size that cannot be read.
    """
    if empty := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise SaveError(f"Nothing to write: {shown_names(empty)} without values (meta device). Load weights first.")
    for name in _earlier(draft.folder, stem, variant):
        draft.remove(name)
    shards = _split(tensors, _bytes(max_shard_size))
    named = _named(stem, variant)
    if len(shards) == 1:
        files = {f"{named}.safetensors": shards[0]}
    else:
        files = {f"{named}-{i:05d}-of-{len(shards):05d}.safetensors": s for i, s in enumerate(shards, 1)}
    header = {**(metadata or {}), "format": "pt"}  # transformers and diffusers require this entry
    for name, shard in files.items():
        plain = {key: tensor.detach().contiguous() for key, tensor in shard.items()}
        write_safetensors(plain, draft.path / name, header)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {key: name for name, shard in files.items() for key in shard},
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (draft.path / _index_names(stem, variant)[0]).write_text(text, encoding="utf-8", newline="\n")


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file into a draft. SaveError for tensors that share memory, which the format cannot say."""
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except RuntimeError as error:
        if "share memory" not in str(error):
            raise
        owners: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            owners.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
        shared = [name for names in owners.values() if len(names) > 1 for name in names]
        raise SaveError(f"{path.name}: {shown_names(shared)} share memory. Pass a clone() of each.") from None


def _named(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}" if variant else stem


def _index_names(stem: str, variant: str | None) -> tuple[str, ...]:
    if variant is None:
        return (f"{stem}.safetensors.index.json",)
    return (f"{stem}.safetensors.index.{variant}.json", f"{stem}.{variant}.safetensors.index.json")


def _shards(index: Path, place: str | Path, folder_names: Collection[str], end: str) -> tuple[str, ...]:
    try:
        weight_map = read_json(index, "index_bytes")["weight_map"]
        check_limit("tensors", len(weight_map))
        names = sorted({str(name) for name in weight_map.values()})
        check_limit("shards", len(names))
    except AboveLimit as error:
        raise LoadError(f"{index} {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{index} cannot be read as an index of shards: {type(error).__name__}: {error}") from error
    for name in names:
        if not re.fullmatch(r"[^/\\:\0]+", name) or name.startswith(".") or not name.endswith(end):
            raise LoadError(f"{index} names the shard {name!r}. A shard is a {end} file beside its index.")
    if missing := [name for name in names if name not in folder_names]:
        raise LoadError(f"{place} lacks {shown_names(missing)} of {len(names)} shards. Download the folder again.")
    if not names:
        raise LoadError(f"{index} names no shard.")
    return tuple(names)


def _nothing_found(place: str | Path, names: Collection[str], variant: str | None, looked_for: tuple[str, ...]) -> str:
    what = f"weights of the variant {variant!r}" if variant else "weights"
    text = f"{place} has no {what}. Looked for {shown_names(looked_for)}."
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if weights:
        return f"{text} There are: {shown_names(weights)}; choose with variant=."
    if pickles:
        return (
            f"{text} There are only pickles ({shown_names(pickles)}), which can run code and are not read by default. "
            "Use a revision with safetensors, or pass allow_pickle=True: then only plain tensors are read."
        )
    return text


def _bytes(size: int | str) -> int:
    if isinstance(size, int):
        return size
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    found = re.fullmatch(r"(\d+)\s*([A-Z]+)", size.upper())
    if found is None or found[2] not in units:
        raise ValueError(f"max_shard_size is {size!r}; write bytes as a number, or for example '500MB' or '10GB'.")
    return int(found[1]) * units[found[2]]


def _split(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _earlier(folder: Path, stem: str, variant: str | None) -> list[str]:
    named = re.escape(_named(stem, variant))
    pattern = re.compile(rf"{named}(-\d{{5}}-of-\d{{5}})?\.safetensors")
    index = _index_names(stem, variant)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if pattern.fullmatch(name) or name in index]
