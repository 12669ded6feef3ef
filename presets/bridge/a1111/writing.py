"""The `parameters` text of a run of ours, for programs that read A1111's."""

from collections.abc import Mapping
from typing import Any

from ....components.handle import Handle
from ....graph.files.writing import library_version
from ....graph.structure import Structure
from .further import further_settings
from .infotext import Infotext
from .names import names_of
from .several import prompts_of

_DENOISERS = ("unet", "transformer")


def parameters(graph: Structure, record: Mapping[str, Any]) -> str:
    """The text of a picture's record. What was left out of the record is not in it.

    A1111 draws other noise for the second picture of a batch with one seed, which it cannot make: `Batch row` names it.
    """
    values = {**record["defaults"], **record["inputs"]}
    row, rows = record["picture"]["row"], record["picture"]["rows"]
    found: dict[str, Any] = {}
    numbers = {name: _of_row(value, row, rows) for name, value in values.items()}
    found["Steps"] = numbers.get("num_inference_steps")
    if (scheduler := graph.bindings.get("scheduler")) is not None:
        loaded = scheduler.load() if isinstance(scheduler, Handle) else scheduler
        found["Sampler"], found["Schedule type"] = names_of(loaded)
    found["CFG scale"] = numbers.get("guidance_scale") if "guidance_scale" in graph.inputs else 1
    if "true_cfg_scale" in graph.inputs:
        found["Distilled CFG Scale"], found["CFG scale"] = found["CFG scale"], numbers.get("true_cfg_scale")
    found["Seed"] = None if isinstance(values.get("seed"), Mapping) else record["picture"].get("seed")
    found["Size"] = "{}x{}".format(*record["picture"]["size"])
    found["Model hash"], found["Model"] = _model(record, *_DENOISERS)
    found["Denoising strength"] = numbers.get("strength")
    found |= further_settings(graph, values, numbers)
    for setting, name in (("Hires checkpoint", "hires_unet"), ("Refiner", "refiner")):
        hash, file = _model(record, name)
        found[setting] = f"{file} [{hash}]" if file else None
    if skipped := numbers.get("clip_skip"):
        found["Clip skip"] = skipped + 1
    found["RNG"] = {"cpu": "CPU", "gpu": "NV"}.get(str(values.get("noise", "cpu")))
    if rows > 1 and isinstance(values.get("seed"), int):
        found["Batch row"] = f"{row + 1} of {rows}"
    if loras := _loras(record):
        found["Lora hashes"] = loras
    found["Version"] = f"sfumato {library_version()}"
    settings = {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in found.items() if value is not None and value != ""
    }  # fmt: skip
    texts = {name: _text(values.get(name), row, rows) for name in ("prompt", "negative_prompt", *graph.inputs)}
    prompt, negative = prompts_of(graph, texts) or "", texts["negative_prompt"]
    return str(Infotext(" ".join(filter(None, [prompt, *_tags(record, row, rows)])), negative, settings))


def _of_row(value: Any, row: int, rows: int) -> Any:
    """The number of a row; None for a value that is none."""
    value = value[row * len(value) // rows] if isinstance(value, list) and value else value
    return value if isinstance(value, int | float) else None


def _text(value: Any, row: int, rows: int) -> str:
    """The prompt of a row."""
    if isinstance(value, list) and value:
        value = value[row * len(value) // rows]
    return value if isinstance(value, str) else ""


def _model(record: Mapping[str, Any], *names: str) -> tuple[str, str]:
    """The hash and the name of the file of the first of these components."""
    for name in names:
        key: Mapping[str, Any] = record["keys"]["components"].get(name, {})
        files: Mapping[str, str] = key.get("files", {})
        for file, sha in files.items():
            if file.endswith(".safetensors"):
                entry = (record["graph"].get("graph") or {}).get("components", {}).get(name, {})
                path = str(entry.get("pretrained_model_name_or_path", file))
                return sha[:10], path.rpartition("/")[2].removesuffix(".safetensors")
    return "", ""


def _tags(record: Mapping[str, Any], row: int, rows: int) -> list[str]:
    """The adapters of a row as A1111 writes them: `<lora:name:strength>`."""
    lists: Any = record["adapters"].get("rows", [])
    own = lists[row * len(lists) // rows] if lists else []
    return [f"<lora:{adapter['name']}:{adapter['strength']:g}>" for adapter in own]


def _loras(record: Mapping[str, Any]) -> str:
    rows: Any = record["adapters"].get("rows", [])
    named = {adapter["name"]: adapter["sha256"][:10] for row in rows for adapter in row if "sha256" in adapter}
    return ", ".join(f"{name}: {sha}" for name, sha in named.items())
