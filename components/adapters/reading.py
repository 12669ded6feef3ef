"""Read the tensors of an adapter's file. Each key becomes part of a patch, or an error lists it."""

import copyreg
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...graph.errors import GraphError, LoadError
from ...graph.limits import AboveLimit, check_limit
from ...registry import counted
from ..loading.open_tensors import open_tensors
from ..storage.files import read_json
from ..storage.fits import shown_names
from ..storage.tensors import PICKLES, SafetensorFiles
from .adapter import Adapter
from .build import patch_of
from .embedding_layouts import BUNDLE, bundled, is_embedding
from .keys import Entry, entries_of
from .names import readings, states_component
from .patch_set import NamedPatch, PatchSet
from .scales import Scales, read_scales

_CONTROL_NET = "lora_controlnet"
"""The mark of Stability's control-LoRA files."""
PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
"""The two files of a folder of PEFT."""


def adapter_of(
    tensors: Iterable[tuple[str, Tensor]],
    *,
    name: str,
    source: str,
    header: Mapping[str, str] | None = None,
    peft: Mapping[str, Any] | None = None,  # an adapter_config.json
) -> Adapter:
    """Make an adapter of the tensors of a file.

    Args:
        tensors: names and tensors, in any order.
        name: the adapter's name.
        source: the file, for errors.
        header: the text entries of its header.
        peft: the content of `adapter_config.json`.

    Raises:
        LoadError: keys of no known kind, a pair without its other half, shapes that do not go together; all of them.
    """
    named: list[tuple[str, Tensor]] = []
    try:
        for number, pair in enumerate(tensors, 1):
            check_limit("adapter_tensors", number, whole=False)
            named.append(pair)
    except AboveLimit as error:
        raise LoadError(f"{source}: {error}") from None
    pairs = [(key, tensor) for key, tensor in named if not key.startswith(BUNDLE)]
    if any(key == _CONTROL_NET for key, _ in pairs):
        raise LoadError(f"{source}: is a control-LoRA of Stability, which is a control net and no adapter.")
    entries, unknown = entries_of(pairs)
    if named and not entries and is_embedding(dict(named)):
        raise LoadError(f"{source}: is an embedding, which is a word of the prompt. Load it with sf.load_embedding.")
    if unknown:
        raise LoadError(
            f"{source}: {counted(len(unknown), 'key')} of no known kind of adapter: {shown_names(unknown)}."
            f"{'' if entries else ' It looks like a whole model. Load it with sf.load or sf.load_component.'}"
        )
    if not entries:
        raise LoadError(f"{source}: has no tensors of an adapter. Pass another file.")
    try:
        scales = read_scales(header or {}, peft)
    except LoadError as error:
        raise LoadError(f"{source}: {error}") from None
    if all(entry.tensors.keys() <= {"weight", "bias"} for entry in entries.values()):
        raise LoadError(f"{source}: is a whole model and no adapter. Load it with sf.load or sf.load_component.")
    patches: list[NamedPatch] = []
    wrong: list[str] = []
    for body, entry in entries.items():
        component, matrix = _peft_names(body)
        try:
            kind, patch = patch_of(entry, scales, component, matrix)
        except LoadError as error:
            wrong.append(str(error))
            continue
        patches.append(NamedPatch(body, kind, patch))
    if wrong:
        more = f" And {len(wrong) - 5} more." if len(wrong) > 5 else ""
        raise LoadError(f"{source}: {len(wrong)} of {len(entries)} patches cannot be read. {' '.join(wrong[:5])}{more}")
    embeddings = bundled(dict(named), source)
    return Adapter(name, PatchSet(source, tuple(patches), tuple(_notes(patches, entries, scales)), embeddings))


def read_adapter(file: Path, *, name: str, source: str, allow_pickle: bool = False) -> Adapter:
    """Read the file of an adapter, with PEFT's config if that is beside it.

    Args:
        file: on this machine.
        name: the adapter's name.
        source: the file, folder or repo, for errors.
        allow_pickle: whether a file of pickles may be read.

    Raises:
        LoadError: no such file; see `adapter_of`.
    """
    stored = open_tensors([file], allow_pickle=allow_pickle)
    header = stored.metadata() if isinstance(stored, SafetensorFiles) else {}
    beside = file.with_name(PEFT_CONFIG)
    peft: Mapping[str, Any] | None = read_json(beside) if file.name == PEFT_WEIGHTS and beside.is_file() else None

    def tensors() -> Iterable[tuple[str, Tensor]]:
        for key in stored.shapes():
            yield key, stored.read(key)

    made = adapter_of(tensors(), name=name, source=source, header=header, peft=peft)
    return replace(made, content=replace(made.content, file=file))


def _reduced(content: PatchSet) -> tuple[Any, ...]:
    """Patches in a pickle: their file. GraphError for those that no file has."""
    if content.file is None:
        raise GraphError(
            f"{content.source}: a pickle has no weights, and this adapter was made in memory. Save it with "
            "adapter.save(file), and attach sf.load_adapter(file) in its place."
        )
    return _read_again, (str(content.file), content.source, content.rank)


def _read_again(file: str, source: str, rank: int) -> PatchSet:
    """The patches of a pickle. Its process has read the same file before, so pickles are as they were allowed there."""
    content = read_adapter(Path(file), name=source, source=source, allow_pickle=file.endswith(PICKLES)).content
    return content.padded(rank) if rank else content


copyreg.pickle(PatchSet, _reduced)


def _peft_names(body: str) -> tuple[str, str]:
    """The component and the matrix of a name, as PEFT's metadata calls them."""
    stated = states_component(body)
    component = body.partition(".")[0] if stated == "denoiser" else (stated or "")
    return component, next(rest for _, rest in readings(body))


def _notes(patches: Iterable[NamedPatch], entries: Mapping[str, Entry], scales: Scales) -> Iterable[str]:
    """Notes on the file: the scale of some LoKr patches at training cannot be known."""
    if scales.network_dim is None:
        return
    whole = [named.body for named in patches if named.kind == "LoKr" and named.patch.rank is None]
    alphas = [t.float().item() for body in whole if (t := entries[body].tensors.get("alpha")) is not None]
    if doubtful := [alpha for alpha in alphas if alpha != scales.network_dim]:
        yield (
            f"{len(doubtful)} of the LoKr patches have both factors whole and an alpha that is not the rank of the "
            f"header ({scales.network_dim}), so the scale of the training is not known. 1 is used, as LyCORIS does. If "
            f"the picture falls apart, pass scale={doubtful[0] / scales.network_dim!r}."
        )
