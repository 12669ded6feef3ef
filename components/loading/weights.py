"""Weights in safetensors files: found, read straight to where they are wanted, and written whole or not at all."""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...graph.errors import LoadError

STEM = "diffusion_pytorch_model"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_SHOWN = 8  # names in an error text


def weight_files(folder: str | Path, *, stem: str = STEM, variant: str | None = None) -> tuple[Path, ...]:
    """The safetensors files that hold a model's weights. Looks at names only, so it costs next to nothing.

    One file `stem[.variant].safetensors`, or the shards that an index names. A variant's index is published as
    `stem.safetensors.index.variant.json`, and `stem.variant.safetensors.index.json` is read as well.
    `stem="model"` for the files of transformers.

    Raises:
        LoadError: no such files, a shard that is missing or points elsewhere, or pickles only.
    """
    folder = Path(folder)
    single = folder / f"{_named(stem, variant)}.safetensors"
    if single.is_file():
        return (single,)
    for index in _index_names(stem, variant):
        if (folder / index).is_file():
            return _shards(folder / index)
    raise LoadError(_nothing_found(folder, stem, variant, (single.name, *_index_names(stem, variant))))


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
    device: str | torch.device = "cpu",
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
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    plan = [(file, _names(file, rename)) for file in files]
    _compare(type(model).__name__, wanted, plan)
    tensors: dict[str, Tensor] = {}
    for file, names in plan:
        with _opened(file) as reader:
            for stored, (name, _) in names.items():
                tensor = cast("Tensor", reader.get_tensor(stored))
                kind = dtype if tensor.is_floating_point() else None
                if kind == torch.float16 and stays_float32(name):
                    kind = torch.float32
                tensors[name] = tensor.to(device=device, dtype=kind).reshape(wanted[name])
    model.load_state_dict(tensors, assign=True)
    for module in model.modules():  # those that no file has
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def save_weights(
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    stem: str = STEM,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
) -> None:
    """Write tensors as `stem[.variant].safetensors`, or as shards with an index where they exceed `max_shard_size`.

    Files of an earlier save under the same stem and variant are removed once the new ones are there.

    Raises:
        LoadError: a tensor on the meta device, which has no values.
    """
    if empty := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise LoadError(f"Nothing to write: {_some(empty)} without values (meta device). Load weights first.")
    before = _earlier(folder, stem, variant)
    shards = _split(tensors, _bytes(max_shard_size))
    named = _named(stem, variant)
    if len(shards) == 1:
        files = {f"{named}.safetensors": shards[0]}
    else:
        files = {f"{named}-{i:05d}-of-{len(shards):05d}.safetensors": s for i, s in enumerate(shards, 1)}
    for name, shard in files.items():
        # "format" is what transformers and diffusers look for before they read.
        held = {key: tensor.detach().contiguous() for key, tensor in shard.items()}
        write_atomically(folder / name, lambda path, held=held: save_file(held, path, metadata={"format": "pt"}))
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


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        weight_map = cast("dict[str, object]", json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{index} cannot be read as an index of shards: {type(error).__name__}: {error}") from error
    for name in names:
        if not re.fullmatch(r"[^/\\:\0]+\.safetensors", name) or name.startswith("."):
            raise LoadError(f"{index} names the shard {name!r}. A shard is a .safetensors file beside its index.")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise LoadError(f"{index.parent} lacks {_some(missing)} of {len(names)} shards. Download the folder again.")
    if not names:
        raise LoadError(f"{index} names no shard.")
    return tuple(index.parent / name for name in names)


def _nothing_found(folder: Path, stem: str, variant: str | None, looked_for: tuple[str, ...]) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder, so it has no weights."
    text = f"{folder} has no weights. Looked for {', '.join(looked_for)}."
    there = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in there if name.endswith(_PICKLES)]
    weights = [name for name in there if name.endswith(".safetensors")]
    if weights:
        return f"{text} There are: {_some(weights)}; choose with variant=."
    if pickles:
        return (
            f"{text} There are only pickles ({_some(pickles)}), which can run code and are not read. Take a revision "
            "with safetensors, or convert: safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)."
        )
    return text


class _opened:  # noqa: N801  it is read as a phrase: `with _opened(file) as reader:`
    """A safetensors file, memory-mapped; what is wrong with it is told with its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:  # safetensors' reader is untyped
        try:
            self._file = safe_open(self.path, framework="pt", device="cpu")
            return self._file.__enter__()
        except (SafetensorError, OSError) as error:
            raise LoadError(f"{self.path} is damaged or no safetensors file: {error}. Download it again.") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, SafetensorError):
            raise LoadError(f"{self.path} cannot be read: {error}") from error


_Names = dict[str, tuple[str, tuple[int, ...]]]  # name in the file -> (name in the model, shape)


def _names(file: Path, rename: Callable[[str], str | None]) -> _Names:
    with _opened(file) as reader:
        shapes = {str(key): tuple(reader.get_slice(key).get_shape()) for key in reader.keys()}  # noqa: SIM118  no mapping
    return {key: (name, shape) for key, shape in shapes.items() if (name := rename(key)) is not None}


def _compare(owner: str, wanted: Mapping[str, tuple[int, ...]], plan: Sequence[tuple[Path, _Names]]) -> None:
    found = {name: (shape, file) for file, names in plan for name, shape in names.values()}
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    unlike = [
        f"{name} is {list(shape)} in {file.name}, wanted {list(wanted[name])}"
        for name, (shape, file) in found.items()
        if name in wanted and _without_ones(shape) != _without_ones(wanted[name])
    ]
    if not (missing or unexpected or unlike):
        return
    where = str(plan[0][0]) if len(plan) == 1 else f"{plan[0][0].parent} ({len(plan)} shards)"
    rows = [("missing", missing), ("unexpected", unexpected), ("other shapes", unlike)]
    lines = [f"  {label}: {_some(names)}" for label, names in rows if names]
    out = "The config.json beside them is not theirs, or they are of another class: give the folder they came in."
    raise LoadError("\n".join([f"{where} does not fit {owner}.", *lines, f"  {out}"]))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: the kernel of a 1x1 convolution is a matrix."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _some(names: Sequence[str]) -> str:
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
