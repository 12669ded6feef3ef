"""`model_index.json` and `modular_model_index.json`: classes, libraries, paths and counts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import checkpoint, used
from ..table import Action, Hostile, drawn
from .odd import ODD
from .weights import CONTROL

HINTS: dict[str, Any] = {
    "os.system": ["os", "system"],
    "builtins.eval": ["builtins", "eval"],
    "subprocess.Popen": ["subprocess", "Popen"],
    "a function of diffusers": ["diffusers", "os"],
    "a module of transformers": ["transformers", "models"],
    "the pipeline of transformers": ["transformers", "pipeline"],
    "AutoModel of transformers": ["transformers", "AutoModel"],
    "AutoTokenizer of transformers": ["transformers", "AutoTokenizer"],
    "AutoProcessor of transformers": ["transformers", "AutoProcessor"],
    "AutoModelForCausalLM": ["transformers", "AutoModelForCausalLM"],
    "a composite model": ["transformers", "EncoderDecoderModel"],
    "a vision and text model": ["transformers", "VisionTextDualEncoderModel"],
    "a config of transformers": ["transformers", "CLIPTextConfig"],
    "a trainer": ["transformers", "Trainer"],
    "private names": ["transformers", "__builtins__"],
    "a library with points": ["os.path", "join"],
    "a library that leads out": ["../x", "Y"],
    "a file of this folder": ["code", "Net"],
    "a class with points": ["diffusers", "models.UNet2DConditionModel"],
    "control characters": [CONTROL, CONTROL],
    "a long name": ["diffusers", "x" * 10**6],
    "an empty name": ["diffusers", ""],
    "of three": ["diffusers", "UNet2DConditionModel", "more"],
    "of one": ["diffusers"],
    "numbers": [1, 2],
    "half null": [None, "UNet2DConditionModel"],
    "another class": ["diffusers", "AutoencoderKL"],
    "a tokenizer": ["transformers", "CLIPTokenizer"],
    "a scheduler": ["diffusers", "DDIMScheduler"],
    "another tower": ["transformers", "T5EncoderModel"],
    "with a projection": ["transformers", "CLIPTextModelWithProjection"],
    "several models": ["diffusers", "MultiControlNetModel"],
    "an image processor": ["transformers", "CLIPImageProcessor"],
}
ENTRIES: dict[str, Any] = {
    "a path of this machine": {"pretrained_model_name_or_path": "/etc", "subfolder": ""},
    "the home folder": {"pretrained_model_name_or_path": "~", "subfolder": ".ssh"},
    "a path above": {"pretrained_model_name_or_path": "../../..", "subfolder": "etc"},
    "a subfolder above": {"subfolder": "../../etc"},
    "an absolute subfolder": {"subfolder": "/etc"},
    "a subfolder with NUL": {"subfolder": "unet\0"},
    "a subfolder with control characters": {"subfolder": CONTROL.replace("\0", "")},
    "a long subfolder": {"subfolder": "x" * 5000},
    "a subfolder of 5000 parts": {"subfolder": "/".join("x" * 5000)},
    "a subfolder that is a number": {"subfolder": 7},
    "a revision above": {"revision": "../../x"},
    "a revision of control characters": {"revision": CONTROL},
    "a variant above": {"variant": "../x"},
    "a variant of a long text": {"variant": "x" * 300},
    "a variant that is a list": {"variant": ["fp16"]},
    "a hint of os": {"type_hint": ["os", "system"]},
    "a hint of one": {"type_hint": ["diffusers"]},
    "a hint that is an object": {"type_hint": {"a": 1}},
    "a config": {"config": {"a": 1}},
    "a dtype": {"dtype": "complex64"},
    "a dtype of os": {"dtype": "os.system"},
    "a quantization": {"quantization": {"quant_method": "x"}},
    "an address of another server": {"pretrained_model_name_or_path": "http://example.com/x"},
    "a name of a repo with control characters": {"pretrained_model_name_or_path": f"a/{CONTROL}"},
    "a pipe": {"pretrained_model_name_or_path": "/dev/stdin"},
}


def inputs() -> Iterator[Hostile]:
    """Hints of each part, entries of modular files, whole files, and names of components."""
    for name, hint in HINTS.items():
        part = drawn(name).choice(["unet", "text_encoder", "vae", "tokenizer", "scheduler"])
        yield Hostile(f"{part}: {name}", lambda place, a=(part, hint): _index(place, {a[0]: a[1]}))
        yield Hostile(
            f"modular {part}: {name}", lambda place, a=(part, hint): _modular(place, a[0], {"type_hint": a[1]})
        )
    for name, entry in ENTRIES.items():
        yield Hostile(f"entry: {name}", lambda place, e=entry: _modular(place, "unet", e))
    for name, odd in ODD.items():
        yield Hostile(f"the class of the pipeline is {name}", lambda place, o=odd: _index(place, {"_class_name": o}))
        yield Hostile(f"a component is {name}", lambda place, o=odd: _index(place, {"unet": o}))
        yield Hostile(f"another key is {name}", lambda place, o=odd: _index(place, {"requires_safety_checker": o}))
    for name, key in NAMES.items():
        yield Hostile(
            f"a component is called {name}", lambda place, k=key: _index(place, {k: ["diffusers", "AutoencoderKL"]})
        )
    for name, text in TEXTS.items():
        yield Hostile(f"text: {name}", lambda place, t=text: _text(place, t))


NAMES = {
    "nothing": "",
    "control characters": CONTROL,
    "a path": "../vae",
    "an absolute path": "/etc",
    "an attribute": "__class__",
    "a long text": "x" * 10**5,
    "two words": "a b",
    "self": "self",
    "prompt": "prompt",
    "HTML": "<script>alert(1)</script>",
    "markdown": "](http://x) ``` ---",
    "a lone surrogate": "\udc80",
}
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "a web page": b"<html></html>",
    "NUL": bytes(100),
    "100,000 components": json.dumps({f"c{i}": ["diffusers", "AutoencoderKL"] for i in range(100_000)}).encode(),
    "a class that is code": json.dumps(
        {"_class_name": ["pipeline", "Net"], "unet": ["diffusers", "UNet2DConditionModel"]}
    ).encode(),
    "only nulls": json.dumps({"_class_name": "StableDiffusionPipeline", "unet": [None, None]}).encode(),
    "an unknown family": json.dumps({"_class_name": CONTROL, "unet": ["diffusers", "UNet2DConditionModel"]}).encode(),
}


def _index(place: Path, changes: dict[str, Any]) -> Action:
    folder = checkpoint(place)
    (folder / "code.py").write_text("import os; os.system('true')\nclass Net: pass\n")
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return used(folder)


def _modular(place: Path, part: str, entry: dict[str, Any]) -> Action:
    folder = checkpoint(place)
    data: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    made: dict[str, Any] = {"_class_name": "StableDiffusionModularPipeline", "_diffusers_version": "0.42.1"}
    for name, hint in data.items():
        if isinstance(hint, list) and hint[0]:
            spec = {
                "type_hint": hint,
                "subfolder": name,
                "pretrained_model_name_or_path": "an/other",
                "revision": None,
                "variant": None,
            }
            made[name] = [*hint, {**spec, **(entry if name == part else {})}]
    (folder / "modular_model_index.json").write_text(json.dumps(made))
    return used(folder)


def _text(place: Path, text: bytes) -> Action:
    folder = checkpoint(place)
    (folder / "model_index.json").write_bytes(text)
    return used(folder)
