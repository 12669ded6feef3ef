"""Embeddings: values that say which vectors a text encoder reads for a word (textual inversion)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...graph.errors import LoadError
from ...graph.limits import AboveLimit, check_limit
from ...registry import counted

EncoderName = Literal["clip_l", "clip_g", "t5", ""]
"""The text encoder of vectors, as files name it; "" where the file does not say."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of a word for one text encoder.

    inputs: (vectors, width), which the encoder reads in place of rows of its token table. outputs: (vectors, width),
    which replace its output at the same places; None for most files.
    """

    encoder: EncoderName
    inputs: Tensor
    outputs: Tensor | None = None

    @property
    def width(self) -> int:
        """The width of the vectors, which is that of the text encoder."""
        return self.inputs.shape[1]


@dataclass(frozen=True, eq=False)
class Embedding:
    """A word with learned vectors (textual inversion, Gal et al. 2022). `sf.load_embedding` makes one from a file.

    Args:
        name: its name in calls and errors; in a prompt, `embedding:name` is the word too.
        token: the word, as a prompt writes it.
        vectors: its vectors, for each text encoder.
        source: the file, folder or repo that it was read from.
        notes: unusual properties of the file.
    """

    name: str
    token: str
    vectors: tuple[Vectors, ...]
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, text in (("token", self.token), ("name", self.name)):
            if not text.strip() or text != text.strip() or not text.isprintable():
                raise LoadError(
                    f"{self.source}: cannot have the {what} {text!r}. Pass {what}= with a text that a prompt can write."
                )
            try:
                check_limit("piece_letters", len(text))
            except AboveLimit as error:
                raise LoadError(f"{self.source}: its {what} {error}") from None
        counts = {_label(vectors): len(vectors.inputs) for vectors in self.vectors}
        if len({*counts.values()}) > 1:
            each = ", ".join(f"{counted(count, 'vector')} for {encoder}" for encoder, count in counts.items())
            raise LoadError(f"{self.source}: has {each}. Each text encoder needs as many. Fetch the file again.")

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of its vectors."""
        return tuple(dict.fromkeys(vectors.width for vectors in self.vectors))

    def __getattr__(self, name: str) -> Any:
        text = f"An embedding has no attribute {name!r}."
        if name in ("strength", "scaled", "during", "along"):
            text = (
                f"An embedding has no strength, so it has no {name!r}. Write the weight of its word in the prompt, "
                f"({self.token}:0.8), and pass prompts=sf.prompts.A1111()."
            )
        raise AttributeError(text)

    def __repr__(self) -> str:
        widths = "/".join(map(str, self.widths))
        count = counted(len(self.vectors[0].inputs), "vector")
        return f"Embedding({self.name!r}: {self.token!r}, {count}, width {widths})"


def _label(vectors: Vectors) -> str:
    return vectors.encoder or f"width {vectors.width}"


def vectors_of(source: str, key: str, tensor: object) -> Tensor:
    """A tensor of a file as vectors (vectors, width), a copy of its own.

    Args:
        source: the file, for errors.
        key: the tensor's name there.
        tensor: the stored tensor.

    Raises:
        LoadError: anything but one vector or several of finite numbers.
    """
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
        kind = f"{tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise LoadError(f"{source}: {key!r} needs a tensor of floating numbers. Got {kind}. Use another file.")
    if tensor.is_meta or tensor.ndim not in (1, 2) or not tensor.numel():
        raise LoadError(
            f"{source}: {key!r} needs the shape (width,) or (vectors, width). Got {tuple(tensor.shape)}. "
            "Use the file of an embedding."
        )
    rows = tensor.reshape(-1, tensor.shape[-1])
    try:
        check_limit("embedding_vectors", len(rows))
        check_limit("width", rows.shape[1])
    except AboveLimit as error:
        raise LoadError(f"{source}: {key!r} {error}") from None
    copied = rows.detach().to("cpu", torch.float32, copy=True)
    if not torch.isfinite(copied).all():
        raise LoadError(f"{source}: {key!r} has NaN or infinite numbers. Use another file.")
    return copied
