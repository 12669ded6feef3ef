"""Counts of the values in a component's weights, by dtype, from the headers of its files."""

from collections import Counter
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path

from safetensors import safe_open

from ..components.loading.component import weight_names_of
from ..components.loading.single_file.checkpoint import open_checkpoint
from ..components.quantization.gguf.reader import GGUFFile
from ..components.spec import ComponentSpec
from ..components.storage.hub import Repo
from ..components.storage.tensors import reading_safetensors

_BYTES = {"F64": 8, "I64": 8, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of a number; 4 for the others."""

DTYPE_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""torch's names for the dtypes of a safetensors header."""


def count_weights(spec: ComponentSpec) -> tuple[Counter[str], int]:
    """Count the values of each dtype in a component's weights, and their bytes. LoadError for a damaged file.

    The dtypes are those of the safetensors format ("F16"), or the types of a GGUF file ("Q8_0").
    """
    counted, size = Counter[str](), 0
    if spec.pretrained_model_name_or_path is None:
        return counted, size
    if (file := spec.file) is not None:
        found = open_checkpoint(file, spec.access)
        part = found.part(spec.subfolder)
        if file.suffix == ".gguf":
            packed = [t for name, t in GGUFFile(file).tensors.items() if name.startswith(part.prefix)]
            for tensor in packed:
                counted[str(tensor.kind)] += prod(tensor.shape)
            return counted, sum(tensor.nbytes for tensor in packed)
        files = [path for path in (file, found.other_half) if path is not None and path.suffix == ".safetensors"]
        held = count_values(files, lambda name: len(files) > 1 or name.startswith(part.prefix))
        return Counter(held), sum(count * _BYTES.get(dtype, 4) for dtype, count in held.items())
    location, subfolder = spec.location, spec.subfolder
    if not any(name.endswith(".safetensors") for name in location.names(subfolder)):
        return counted, size
    for name in weight_names_of(spec):
        size += location.size(subfolder, name) or 0
        if isinstance(location, Repo) and not location.has(subfolder, name):
            counted.update(location.numbers(subfolder, name))
        else:
            counted.update(count_values([location.local(subfolder, [name]) / name]))
    return counted, size


def count_values(files: Iterable[Path], wanted: Callable[[str], bool] = lambda name: True) -> dict[str, int]:
    """Count the values of each dtype in safetensors files, of the tensors whose names are `wanted`.

    LoadError for a damaged file.
    """
    counted: Counter[str] = Counter()
    for file in files:
        with reading_safetensors(file), safe_open(file, framework="pt") as reader:
            for key in reader.keys():  # noqa: SIM118  no mapping
                if wanted(key):
                    tensor = reader.get_slice(key)
                    counted[tensor.get_dtype()] += prod(tensor.get_shape())
    return counted
