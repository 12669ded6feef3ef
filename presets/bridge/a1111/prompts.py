"""The prompts of a text, with the LoRAs and embeddings that they name."""

import re
from pathlib import Path

from ....blocks.prompts.loras import loras_in, without_loras
from ....graph import Graph, UnfitValue
from ...adapter import load_adapter
from ...embedding import load_embedding
from ...prompt_loras import with_strengths
from .settings import Settings
from .several import AND, composed, refused, split_prompt, texts_of

_HYPERNET = re.compile(r"<hypernet:[^<>]*>")


def with_prompts(settings: Settings, graph: Graph) -> Graph:
    """The graph with the LoRAs and embeddings of the prompt; the prompts are inputs, read by A1111's rules."""
    prompt, negative = settings.text.prompt, settings.text.negative
    hashes = _pairs(settings.values.get("Lora hashes", ""))
    try:
        tags = loras_in(prompt)
    except UnfitValue as error:
        tags = []
        settings.add("prompt", prompt, "not supported", str(error))
    named = [(tag, _file(settings, f"<lora:{tag.name}>", tag.name, hashes.get(tag.name, ""))) for tag in tags]
    adapters = [
        with_strengths(load_adapter(file, name=tag.name), tag, graph) for tag, file in dict.fromkeys(named) if file
    ]
    hashes = _pairs(settings.values.get("TI hashes", ""))
    found = [(name, _file(settings, f"embedding {name}", name, hash)) for name, hash in hashes.items()]
    embeddings = [load_embedding(file, token=name, name=name) for name, file in found if file]
    for setting in ("Lora hashes", "TI hashes"):
        settings.mark(setting, "used")
    if (adapters or embeddings) and graph.bindings:
        graph = graph.with_adapters(*adapters, *embeddings)
    if _HYPERNET.search(prompt):
        settings.add("<hypernet>", _HYPERNET.findall(prompt)[0], "not supported")
    if without_loras(negative) != negative:
        settings.add("negative prompt", negative, "note", "LoRAs are not read there")
    graph = with_texts(settings, graph, _HYPERNET.sub("", without_loras(prompt)).strip())
    if "negative_prompt" in graph.inputs:
        settings.inputs["negative_prompt"] = without_loras(negative)
    elif negative:
        settings.add("negative prompt", negative, "not supported", "the family has none")
    if "prompts" in graph.inputs:
        settings.inputs["prompts"] = "a1111"
    settings.mark("Emphasis", "used" if settings.values.get("Emphasis") == "Original" else "not supported")
    return graph


def with_texts(settings: Settings, graph: Graph, prompt: str) -> Graph:
    """The graph whose inputs are the prompts that `AND` joins."""
    prompts = split_prompt(prompt)
    reason = refused(graph, prompts)
    if reason or len(prompts) == 1:
        settings.inputs["prompt"] = AND.sub("and", prompt)
        if reason:
            settings.add("AND", "", "not supported", f"{reason}; it is read as and")
        return graph
    settings.inputs |= texts_of(prompts)
    settings.add("AND", " ".join(f"{one.weight:g}" for one in prompts), "used", "the weights of the prompts")
    return composed(graph, [one.weight for one in prompts])


def _file(settings: Settings, label: str, name: str, hash: str) -> Path | None:
    """The file of a LoRA or an embedding, noted in the report."""
    file = settings.files.find(name, hash)
    if file.path is None or not file.path.is_file():
        settings.add(label, hash, "missing", file.note)
        return None
    settings.add(label, str(file.path), "note" if file.note else "used", file.note)
    return file.path


def _pairs(text: str) -> dict[str, str]:
    """`name: hash, name: hash` by name."""
    parts = [part.partition(":") for part in text.split(",") if ":" in part]
    return {name.strip(): hash.strip() for name, _, hash in parts}
