"""Weights in safetensors files: found, read straight to where they are wanted, and written whole or not at all."""

import json
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...graph.errors import LoadError
from .files import read_json
from .tensors import PICKLES, SafetensorFiles, Shape, Tensors

STEM = "diffusion_pytorch_model"
_PICKLED = {"model": "pytorch_model"}  # what transformers called its pickles
_SHOWN = 8  # names in an error text
Device = str | torch.device | Callable[[str], str]
"""One device for all, or what gives that of each tensor and module by its name."""


def weight_files(
    folder: str | Path, *, stem: str = STEM, variant: str | None = None, pickles: bool = False
) -> tuple[Path, ...]:
    """The files that hold a model's weights. Looks at names only, so it costs next to nothing. See `weight_names`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise LoadError(f"{folder} is no folder, so it has no weights.")
    there = [path.name for path in folder.iterdir() if path.is_file()]
    names = weight_names(there, folder, lambda name: folder / name, stem=stem, variant=variant, pickles=pickles)
    return tuple(folder / name for name in names)


def weight_names(
    there: Collection[str],
    place: str | Path,
    local: Callable[[str], Path],
    *,
    stem: str = STEM,
    variant: str | None = None,
    pickles: bool = False,
) -> tuple[str, ...]:
    """Which of the names in a folder are a model's weights; `local` gives the file of an index of shards.

    One file `stem[.variant].safetensors`, or the shards that an index names. A variant's index is published as
    `stem.safetensors.index.variant.json`, and `stem.variant.safetensors.index.json` is read as well.
    `stem="model"` for the files of transformers. With `pickles`, `.bin` files serve where there are no safetensors.

    Raises:
        LoadError: no such files, a shard that is missing or points elsewhere, or pickles only.
    """
    single, indexes = f"{_named(stem, variant)}.safetensors", _index_names(stem, variant)
    if single in there:
        return (single,)
    for index in indexes:
        if index in there:
            return _shards(local(index), place, there, ".safetensors")
    if pickles:
        older = _PICKLED.get(stem, stem)
        for name in (f"{older}.{variant}.bin", f"{older}.bin") if variant else (f"{older}.bin",):
            if name in there:
                return (name,)
            if f"{name}.index.json" in there:
                return _shards(local(f"{name}.index.json"), place, there, ".bin")
    raise LoadError(_nothing_found(place, there, variant, (single, *indexes)))


class on_meta(TorchFunctionMode):  # noqa: N801  it is read as a phrase: `with on_meta():`
    """Inside, tensors without values yet (`torch.empty`: all weights) are made on the meta device and cost nothing.

    Tensors with values, such as a buffer of positions, are made as always: no file has them. Holds for one thread.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:  # any function of torch comes through here
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else (kwargs or {})["tensor"]
            if tensor.is_meta:
                return tensor  # initialising nothing takes 2 s for a large U-Net
        return func(*args, **(kwargs or {}))


def load_weights(
    model: nn.Module,
    files: Sequence[Path],
    *,
    dtype: torch.dtype | None = None,
    device: Device = "cpu",
    rename: Callable[[str], str | None] = lambda name: name,
    stays_float32: Callable[[str], bool] = lambda name: False,
) -> None:
    """Give a model (made under `on_meta`) the weights in `files`, each read, cast and moved one after another.

    Names and shapes are compared before the first tensor is read. Floating tensors are cast to `dtype`, others are
    not. Peak memory is the weights and one tensor. `rename` gives the model's name for a name in a file, or None
    for a tensor to pass over. A 1x1 convolution's weight fits a linear layer and the other way round. Tensors of which
    `stays_float32` says so are float32 where `dtype` is float16: their values go beyond what that can hold.

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
    """The same from any source of tensors."""
    at = _at(device)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = {stored: name for stored in tensors.shapes() if (name := rename(stored)) is not None}
    check_shapes(type(model).__name__, wanted, names, tensors)
    held: dict[str, Tensor] = {}
    for stored, name in names.items():
        tensor = tensors.read(stored)
        kind = dtype if tensor.is_floating_point() else None
        if kind == torch.float16 and stays_float32(name):
            kind = torch.float32
        held[name] = tensor.to(device=at(name), dtype=kind).reshape(wanted[name])
    for path, module in model.named_modules():  # `load_state_dict` does the same in a quarter of all that loading takes
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(held[prefix + name], requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:  # of those that no file has, the values are made with the model
                module._buffers[name] = held[prefix + name] if prefix + name in held else buffer.to(at(path))


def move(model: nn.Module, device: Device) -> None:
    """Bring all tensors of a model to a device, or each to its own."""
    if not callable(device):
        model.to(device)
        return
    for path, module in model.named_modules():
        there = torch.device(device(path))
        module._apply(partial(Tensor.to, device=there), recurse=False)


def _at(device: Device) -> Callable[[str], str | torch.device]:
    def everywhere(name: str) -> str | torch.device:
        return cast("str | torch.device", device)

    return device if callable(device) else everywhere


def save_weights(
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    stem: str = STEM,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as `stem[.variant].safetensors`, or as shards with an index where they exceed `max_shard_size`.

    `metadata` stands in the header of each file.

    Files of an earlier save under the same stem and variant are removed once the new ones are there.

    Raises:
        LoadError: a tensor on the meta device, which has no values.
    """
    if empty := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise LoadError(f"Nothing to write: {shown_names(empty)} without values (meta device). Load weights first.")
    before = _earlier(folder, stem, variant)
    shards = _split(tensors, _bytes(max_shard_size))
    named = _named(stem, variant)
    if len(shards) == 1:
        files = {f"{named}.safetensors": shards[0]}
    else:
        files = {f"{named}-{i:05d}-of-{len(shards):05d}.safetensors": s for i, s in enumerate(shards, 1)}
    told = {**(metadata or {}), "format": "pt"}  # what transformers and diffusers look for before they read
    for name, shard in files.items():
        held = {key: tensor.detach().contiguous() for key, tensor in shard.items()}
        write_atomically(folder / name, lambda path, held=held: save_file(held, path, metadata=told))
    written = set(files)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {key: name for name, shard in files.items() for key in shard},
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        name = _index_names(stem, variant)[0]
        write_atomically(folder / name, lambda path: path.write_text(text, encoding="utf-8"))
        written.add(name)
    for path in before:
        if path.name not in written:
            path.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place in one move. On failure nothing is left behind."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def _named(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}" if variant else stem


def _index_names(stem: str, variant: str | None) -> tuple[str, ...]:
    if variant is None:
        return (f"{stem}.safetensors.index.json",)
    return (f"{stem}.safetensors.index.{variant}.json", f"{stem}.{variant}.safetensors.index.json")


def _shards(index: Path, place: str | Path, there: Collection[str], end: str) -> tuple[str, ...]:
    try:
        weight_map = read_json(index)["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{index} cannot be read as an index of shards: {type(error).__name__}: {error}") from error
    for name in names:
        if not re.fullmatch(r"[^/\\:\0]+", name) or name.startswith(".") or not name.endswith(end):
            raise LoadError(f"{index} names the shard {name!r}. A shard is a {end} file beside its index.")
    if missing := [name for name in names if name not in there]:
        raise LoadError(f"{place} lacks {shown_names(missing)} of {len(names)} shards. Download the folder again.")
    if not names:
        raise LoadError(f"{index} names no shard.")
    return tuple(names)


def _nothing_found(place: str | Path, there: Collection[str], variant: str | None, looked_for: tuple[str, ...]) -> str:
    what = f"weights of the variant {variant!r}" if variant else "weights"
    text = f"{place} has no {what}. Looked for {shown_names(looked_for)}."
    pickles = sorted(name for name in there if name.endswith(PICKLES))
    weights = sorted(name for name in there if name.endswith(".safetensors"))
    if weights:
        return f"{text} There are: {shown_names(weights)}; choose with variant=."
    if pickles:
        return (
            f"{text} There are only pickles ({shown_names(pickles)}), which can run code and are not read by default. "
            "Use a revision with safetensors, or pass allow_pickle=True: then only plain tensors are read."
        )
    return text


def check_shapes(owner: str, wanted: Mapping[str, Shape], names: Mapping[str, str], tensors: Tensors) -> None:
    shapes = tensors.shapes()
    found = {name: stored for stored, name in names.items()}
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    unlike = {
        name: f"{name} is {list(shapes[stored])} in {Path(tensors.where(stored)).name}, wanted {list(wanted[name])}"
        for name, stored in found.items()
        if name in wanted and _without_ones(shapes[stored]) != _without_ones(wanted[name])
    }
    if not (missing or unexpected or unlike):
        return
    files = sorted({tensors.where(stored) for stored in names or shapes})
    where = f"{Path(files[0]).parent} ({len(files)} shards)" if len(files) > 1 else "".join(files) or "Nothing"
    lines = [
        f"  {label}: {shown_names(some)}" for label, some in (("missing", missing), ("unexpected", unexpected)) if some
    ]
    lines += [f"  other shape: {said}" for said in unlike.values()]
    reason = _reason(len(wanted), missing, unexpected, {name: shapes[found[name]] for name in unlike}, wanted)
    raise LoadError("\n".join([f"{where} does not fit {owner}.", *lines, f"  {reason}"]))


def _reason(
    count: int,
    missing: Sequence[str],
    unexpected: Sequence[str],
    came: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
) -> str:
    """What is likely wrong, by the pattern of what differs."""
    for name in ("conv_in.weight", "x_embedder.weight"):
        if name in came and len(came) <= 2 and not missing:
            return (
                f"It takes {came[name][1]} channels and the config says {wanted[name][1]}: an inpainting or control "
                "checkpoint beside a plain config, or the reverse. Give the config of this checkpoint."
            )
    if count and len(missing) == count:
        return "None of its names fit: it is of another class or layout. sf.inspect(file) says what it holds."
    if missing and not unexpected and not came:
        return "A part is not there: an interrupted save, or one shard of several. Fetch it again."
    return "The config beside it is not its own, or it is of another class: give the folder it came in."


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: the kernel of a 1x1 convolution is a matrix."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def shown_names(names: Sequence[str]) -> str:
    rest = f" … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


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


def _earlier(folder: Path, stem: str, variant: str | None) -> list[Path]:
    named = re.escape(_named(stem, variant))
    pattern = re.compile(rf"{named}(-\d{{5}}-of-\d{{5}})?\.safetensors")
    index = _index_names(stem, variant)
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name) or path.name in index]
