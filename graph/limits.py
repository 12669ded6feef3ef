"""Limits on the sizes that files and calls may state: one table, with the reason beside each number.

A limit is far above what people publish, and far below what fills a machine. It is checked before the work is done.
A program that trusts its files may raise one, for the whole process:

>>> raise_limit("graph_nodes", 5_000)
>>> limit("graph_nodes")
5000
>>> raise_limit("graph_nodes", LIMITS["graph_nodes"].value)
"""

from dataclasses import dataclass
from typing import NamedTuple


class Limit(NamedTuple):
    """The largest count that is accepted."""

    value: int
    unit: str
    """The plural of the counted thing, for errors: "nodes"."""
    reason: str
    """The reason for this number: the sizes in published files."""


_MIB = 2**20
_SHOWN = 10**15  # larger counts are not written out

LIMITS = {
    # Text files, by their bytes.
    "config_bytes": Limit(4 * _MIB, "bytes", "published configs and indexes of pipelines have at most 0.3 MB"),
    "index_bytes": Limit(16 * _MIB, "bytes", "an index of shards has 100 bytes for each tensor"),
    "vocabulary_bytes": Limit(32 * _MIB, "bytes", "the tokenizer.json of UMT5, with 256,300 pieces, has 17 MB"),
    "pieces_bytes": Limit(16 * _MIB, "bytes", "the spiece.model of UMT5, with 256,300 pieces, has 5 MB"),
    "graph_bytes": Limit(4 * _MIB, "bytes", "the graph file of a preset has 20 kB"),
    # JSON.
    "config_values": Limit(2**17, "values", "a config of a tokenizer has six for each of its added tokens"),
    "json_depth": Limit(128, "levels", "a graph file has six levels for each graph within a graph, and a config four"),
    "json_containers": Limit(2**19, "lists and objects", "the tokenizer.json of UMT5 has one for each of its pieces"),
    "json_values": Limit(2**20, "values", "the tokenizer.json of UMT5 has two for each of its pieces"),
    "json_key": Limit(1_024, "letters", "names of tensors have at most 200"),
    "json_digits": Limit(40, "digits", "files of transformers write 10**30 for a length without a limit"),
    # Graphs.
    "graph_nodes": Limit(1_000, "nodes", "the graph of a preset has 30, with those of its loops"),
    "graph_edges": Limit(10_000, "edges", "a node has at most 10"),
    "workflow_bytes": Limit(16 * _MIB, "bytes", "the largest published workflow of ComfyUI has 0.5 MB"),
    "workflow_nodes": Limit(5_000, "nodes", "the largest published workflow of ComfyUI has 200"),
    "graph_depth": Limit(16, "graphs within each other", "the graph of a preset has 2"),
    "graph_problems": Limit(100, "problems", "nobody reads more at once"),
    # Indexes, repos and names.
    "config_keys": Limit(1_000, "keys", "published configs have at most 80, and pipelines 20 components"),
    "name_letters": Limit(128, "letters in a name", "published names of nodes and components have at most 40"),
    "listing_bytes": Limit(32 * _MIB, "bytes", "the Hub writes 300 bytes for each file of a repo"),
    "small_files": Limit(100, "small files", "the folder of a component has at most 10"),
    "repo_files": Limit(100_000, "files", "the Hub itself advises fewer"),
    "path_letters": Limit(1_024, "letters in a path", "file systems take 255 for each folder, and 4,096 in all"),
    # Weights.
    "tensors": Limit(2**16, "tensors", "a checkpoint of an image model has at most 5,000"),
    "shards": Limit(1_000, "shards", "the largest published models have 200"),
    "tensor_letters": Limit(1_024, "letters in the name of a tensor", "published names have at most 200"),
    "dimensions": Limit(8, "dimensions", "weights of image and video models have at most 5"),
    "header_bytes": Limit(32 * _MIB, "bytes", "a header has 150 bytes for each tensor, and at most a few MB of notes"),
    "header_texts": Limit(2**19, "texts and lists", "a vocabulary has at most 2**18 words"),
    "header_numbers": Limit(2**22, "numbers", "a vocabulary has two for each of at most 2**18 words"),
    "adapter_tensors": Limit(
        2**13, "tensors", "SDXL and its text encoders have 1,100 matrices, each with at most seven"
    ),
    "embedding_vectors": Limit(1_024, "vectors", "published embeddings have at most 75, which fill a window of CLIP"),
    # Configs of models.
    "layers": Limit(512, "layers", "the deepest published models have 80"),
    "levels": Limit(512, "entries", "a list in a config has one for each level or layer, and models have at most 80"),
    "width": Limit(2**17, "channels", "the widest published layers have 2**16"),
    "rows": Limit(2**20, "rows", "the largest published vocabularies have 2**18"),
    "model_tensors": Limit(2**12, "tensors", "Flux.1 has 1,200, and text encoders fewer"),
    "model_numbers": Limit(2**37, "numbers", "the largest published image models have 2**35"),
    "made_numbers": Limit(2**24, "numbers that no file has", "a table of positions has 2**20"),
    # Schedules.
    "training_steps": Limit(100_000, "training timesteps", "published schedulers have 1,000 or 2,000"),
    "steps": Limit(10_000, "steps", "the longest published runs have 1,000, one for each training timestep"),
    "repeats": Limit(100, "repeats", "RePaint repeats 10 times"),
    # Calls.
    "side": Limit(16_384, "pixels a side", "models draw at most 4,096, and a WebP picture has at most 16,383"),
    "prompts": Limit(1_024, "prompts", "what fits into one batch of the largest devices is less"),
    "joined_prompts": Limit(64, "prompts for one picture", "people join at most ten"),
    "prompt_letters": Limit(2**15, "letters", "the longest prompts that people write in chunks have 10,000"),
    "prompt_windows": Limit(512, "windows", "the longest prompts that people write fill 40"),
    "prompt_variants": Limit(256, "combinations of texts over the steps", "people write at most ten changes"),
    "pictures": Limit(1_024, "pictures for each prompt", "what fits into one batch of the largest devices is less"),
    "sweep_cells": Limit(10_000, "combinations", "a picture of all has 100 x 100 cells"),
    "batch_columns": Limit(1_000, "columns", "a pipeline has at most 60 inputs"),
    "batch_row_bytes": Limit(_MIB, "bytes in a row", "the longest prompts that people write have 30 kB"),
    "pixels": Limit(2**30, "pixels", "that is a thousand pictures of 1024 x 1024"),
    # Pictures.
    "picture_bytes": Limit(2**28, "bytes", "a TIFF of 64 million pixels has 200 MB"),
    "picture_pixels": Limit(2**26, "pixels", "8192 x 8192, more than most cameras take and models draw"),
    "picture_scans": Limit(20, "scans", "progressive JPEG files have ten"),
    "record_bytes": Limit(_MIB, "bytes", "a record of a run has 30 kB, and Pillow reads no longer text of a PNG"),
    # Training data.
    "caption_bytes": Limit(_MIB, "bytes", "the longest captions that models write have 4 kB"),
    "metadata_bytes": Limit(2**30, "bytes", "a row has 300 bytes, and a folder at most a few million pictures"),
    # Vocabularies.
    "pieces": Limit(2**19, "pieces", "UMT5 has 256,300, and larger vocabularies are not published for images"),
    "added_tokens": Limit(10_000, "added tokens", "published tokenizers of image models have at most 300"),
    "piece_letters": Limit(1_024, "letters", "the longest published piece has 128"),
}
"""By name. `raise_limit` changes the copy that is checked, and not this table."""

_current = {name: entry.value for name, entry in LIMITS.items()}


class AboveLimit(ValueError):
    """A count that is above its limit. The text has the count, the limit with its reason, and advice."""


@dataclass(frozen=True)
class AtMost:
    """A tag on the type of a number: `Annotated[int, Ge(1), AtMost("layers")]`."""

    name: str


def limit(name: str) -> int:
    """The limit that is in force."""
    return _current[name]


def raise_limit(name: str, value: int) -> None:
    """Set a limit of the process, such as `raise_limit("graph_nodes", 5_000)`, for files that you trust.

    Raises:
        KeyError: no limit has the name.
    """
    if name not in _current:
        raise KeyError(f"There is no limit {name!r}. There are: {', '.join(_current)}.")
    _current[name] = value


def check_limit(name: str, found: int, *, whole: bool = True) -> None:
    """Raise `AboveLimit` if a count is above its limit. whole: whether all was counted, or only up to the limit."""
    if found <= _current[name]:
        return
    entry = LIMITS[name]
    count = f"{found:,}" if whole and found < _SHOWN else f"more than {min(found - 1, _SHOWN):,}"
    raised = found if whole and found < _SHOWN else "…"
    raise AboveLimit(
        f"has {count} {entry.unit}, and the limit is {_current[name]:,}: {entry.reason}. If it is meant, raise "
        f'the limit: sfumato.graph.limits.raise_limit("{name}", {raised}).'
    )
