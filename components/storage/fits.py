"""Whether the tensors of files fit a model: names, shapes and kinds of numbers, and the likely reason if not."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...graph.errors import LoadError
from .tensors import Shape, Tensors

_SHOWN = 8  # names in an error text


def check_shapes(owner: str, wanted: Mapping[str, Shape], names: Mapping[str, str], tensors: Tensors) -> None:
    """Compare the tensors of files with those of a model.

    Args:
        owner: the class of the model, for errors.
        wanted: the shape of each tensor of the model.
        names: from names in the files to names in the model.
        tensors: the files.

    Raises:
        LoadError: missing and unexpected tensors, and those of another shape, with the likely reason.
    """
    shapes = tensors.shapes()
    stored_as = {name: stored for stored, name in names.items()}
    missing = [name for name in wanted if name not in stored_as]
    unexpected = [name for name in stored_as if name not in wanted]
    unfit = {
        name: f"{name} is {list(shapes[stored])} in {Path(tensors.where(stored)).name}, wanted {list(wanted[name])}"
        for name, stored in stored_as.items()
        if name in wanted and _without_ones(shapes[stored]) != _without_ones(wanted[name])
    }
    if not (missing or unexpected or unfit):
        return
    files = sorted({tensors.where(stored) for stored in names or shapes})
    where = f"{Path(files[0]).parent} ({len(files)} shards)" if len(files) > 1 else "".join(files) or "Nothing"
    lines = [
        f"  {label}: {shown_names(some)}" for label, some in (("missing", missing), ("unexpected", unexpected)) if some
    ]
    lines += [f"  other shape: {text}" for text in [*unfit.values()][:_SHOWN]]
    if len(unfit) > _SHOWN:
        lines.append(f"  other shape: {len(unfit) - _SHOWN} more")
    reason = _reason(len(wanted), missing, unexpected, {name: shapes[stored_as[name]] for name in unfit}, wanted)
    raise LoadError("\n".join([f"{where} does not fit {owner}.", *lines, f"  {reason}"]))


def check_numbers(wanted: Tensor, tensor: object, stored: str, tensors: Tensors) -> None:
    """Compare the numbers of a tensor of a file with those of the model: floating, integer or complex.

    Args:
        wanted: the tensor of the model.
        tensor: that of the file. Packed weights are decoded to floating numbers, and are not compared.
        stored: its name in the file.
        tensors: the files.

    Raises:
        LoadError: numbers of another kind, or a sparse or quantized tensor, with which layers do not compute.
    """
    if not isinstance(tensor, Tensor):
        return
    name = f"{tensors.where(stored)}: {stored}"
    if _kind(tensor) != (needed := _kind(wanted)):
        raise LoadError(
            f"{name} needs {needed} numbers, got {str(tensor.dtype).removeprefix('torch.')}. "
            "Pass the original weights; integers are often of a quantization that the config does not name."
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        layout = "quantized" if tensor.is_quantized else str(tensor.layout)[6:]
        raise LoadError(
            f"{tensors.where(stored)}: {stored} needs plain numbers, got a {layout} tensor. Save it densely."
        )


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "floating" if tensor.is_floating_point() else "integer"


def _reason(
    count: int,
    missing: Sequence[str],
    unexpected: Sequence[str],
    unfit: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
) -> str:
    """The likely reason, by the pattern of the differences."""
    for name in ("conv_in.weight", "x_embedder.weight"):
        if name in unfit and len(unfit) <= 2 and not missing and len(unfit[name]) == len(wanted[name]) > 1:
            return (
                f"The weights have {unfit[name][1]} input channels, and the config {wanted[name][1]}: an inpainting or "
                "control checkpoint with a plain config, or the reverse. Pass the config of this checkpoint."
            )
    if count and len(missing) == count:
        return "No name fits: the weights are of another class or layout. sf.inspect(file) lists what the file has."
    if missing and not unexpected and not unfit:
        return "A part is missing: an interrupted save, or one shard of several. Fetch the files again."
    return "The config belongs to other weights, or the class is wrong. Pass the weights' own folder."


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: the kernel of a 1x1 convolution is a matrix."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def shown_names(names: Sequence[str]) -> str:
    """The first names, and how many there are, for an error text."""
    rest = f" … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
