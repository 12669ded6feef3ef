"""Calls of presets with values that no picture needs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sfumato as sf

from ..checkpoint import CALL, checkpoint, fresh
from ..table import Action, Hostile
from .odd import ODD
from .weights import CONTROL

INPUTS = (
    "prompt",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "height",
    "width",
    "seed",
    "num_images_per_prompt",
    "latents",
    "output_type",
    "scheduler",
    "guider",
    "timesteps",
    "sigmas",
    "clip_skip",
    "long_prompt",
    "nothing",
)
VALUES: dict[str, dict[str, Any]] = {
    "a prompt of 10**7 letters": {"prompt": "x" * 10**7},
    "a prompt of 10**6 words": {"prompt": "a " * 10**6},
    "a long prompt in chunks": {"prompt": "a " * 10**5, "long_prompt": "chunk"},
    "a prompt of one long word": {"prompt": "x" * 10**6, "long_prompt": "chunk"},
    "a prompt of control characters": {"prompt": CONTROL},
    "a prompt of halves of letters": {"prompt": "\ud83e fox \udd8a"},
    "10**5 prompts": {"prompt": ["a"] * 10**5},
    "no prompt": {"prompt": []},
    "prompts of two types": {"prompt": ["a", 7]},
    "a prompt of bytes": {"prompt": b"a"},
    "more negative prompts": {"prompt": ["a"], "negative_prompt": ["a", "b", "c"]},
    "a size of 10**6": {"height": 10**6, "width": 10**6},
    "a size of 10**9": {"height": 8 * 10**9},
    "a size of 8": {"height": 8, "width": 8},
    "a size of 1": {"height": 1, "width": 1},
    "a size of 65": {"height": 65, "width": 64},
    "a long and narrow size": {"height": 8, "width": 10**7},
    "10**9 steps": {"num_inference_steps": 10**9},
    "1001 steps": {"num_inference_steps": 1001},
    "10**9 pictures": {"num_images_per_prompt": 10**9},
    "a guidance scale of 1e308": {"guidance_scale": 1e308},
    "a guidance scale of -1e308": {"guidance_scale": -1e308},
    "guidance scales of two rows": {"guidance_scale": (1.0, 2.0)},
    "a seed of 2**64": {"seed": 2**64},
    "two seeds": {"seed": [1, 2]},
    "a seed of a numpy array": {"seed": np.arange(3)},
    "latents of another shape": {"latents": torch.zeros(1, 3, 8, 8)},
    "latents of 5 sides": {"latents": torch.zeros(1, 4, 1, 8, 8)},
    "latents of integers": {"latents": torch.zeros(1, 4, 8, 8, dtype=torch.long)},
    "complex latents": {"latents": torch.zeros(1, 4, 8, 8, dtype=torch.complex64)},
    "latents that are not numbers": {"latents": torch.full((1, 4, 8, 8), float("nan"))},
    "infinite latents": {"latents": torch.full((1, 4, 8, 8), float("inf"))},
    "latents without rows": {"latents": torch.zeros(0, 4, 8, 8)},
    "latents without pixels": {"latents": torch.zeros(1, 4, 0, 0)},
    "latents without values": {"latents": torch.zeros(1, 4, 8, 8, device="meta")},
    "sparse latents": {"latents": torch.zeros(1, 4, 8, 8).to_sparse()},
    "latents of an array": {"latents": np.zeros((1, 4, 8, 8), dtype=np.float32)},
    "latents of objects": {"latents": np.array([object()])},
    "timesteps that rise": {"timesteps": [1, 500, 900]},
    "timesteps beyond the training": {"timesteps": [10**9]},
    "no timestep": {"timesteps": []},
    "timesteps and sigmas": {"timesteps": [5], "sigmas": [1.0]},
    "10**6 timesteps": {"timesteps": [float(i % 1000) for i in range(10**6)]},
    "sigmas below zero": {"sigmas": [-1.0, -2.0]},
    "a scheduler of os": {"scheduler": "os.system"},
    "a scheduler by path": {"scheduler": "../../x"},
    "a scheduler with control characters": {"scheduler": CONTROL},
    "a scheduler config of os": {"scheduler": {"_class_name": "os.system"}},
    "a scheduler config of 10**9 steps": {"scheduler": {"num_train_timesteps": 10**9}},
    "a scheduler config of an unknown key": {"scheduler": {CONTROL: 1}},
    "a scheduler config of not a number": {
        "scheduler": {"_class_name": "EulerDiscreteScheduler", "beta_end": float("nan")}
    },
    "a guider with control characters": {"guider": CONTROL},
    "a guider config of an unknown key": {"guider": {"_class_name": "ClassifierFreeGuidance", CONTROL: 1}},
    "a guider that is a class": {"guider": sf.guiders.NoGuidance},
    "a model that is a number": {"unet": 7},
    "a model of another class": {"unet": torch.nn.Linear(1, 1)},
    "a model by a path": {"unet": "/etc/passwd"},
    "a clip skip of 10**9": {"clip_skip": 10**9},
    "a name of control characters": {CONTROL: 1},
    "50,000 unknown names": {f"x{i}": i for i in range(50_000)},
}


def inputs() -> Iterator[Hostile]:
    """Odd values for each input, and values by hand."""
    from ..table import drawn

    random = drawn("calls")
    for name in INPUTS:
        for odd in random.sample([*ODD], 5):
            if not (name.endswith("prompt") and odd == "a long text"):
                yield Hostile(f"{name} is {odd}", lambda place, n=name, o=odd: _called(place, {n: ODD[o]}))
    for name, values in VALUES.items():
        yield Hostile(name, lambda place, v=values: _called(place, v))
    for name, more in LOADS.items():
        yield Hostile(f"load: {name}", lambda place, m=more: _loaded(place, m))


LOADS: dict[str, dict[str, Any]] = {
    "a task of control characters": {"task": CONTROL},
    "a task that is a number": {"task": 7},
    "a device that is none": {"device": CONTROL},
    "a device of another machine": {"device": "cuda:99"},
    "the device meta": {"device": "meta"},
    "a dtype that is none": {"dtype": CONTROL},
    "a dtype of integers": {"dtype": "int8"},
    "dtypes of nobody": {"dtype": {CONTROL: "float16"}},
    "a variant above": {"variant": "../x"},
    "a variant that is a number": {"variant": 7},
    "a revision of control characters": {"revision": CONTROL},
    "a subfolder above": {"subfolder": "../.."},
    "a subfolder of control characters": {"subfolder": CONTROL},
    "a quantization that is none": {"quantization": {"unet": CONTROL}},
    "a quantization that is a number": {"quantization": {"unet": 7}},
    "a device map of nobody": {"device_map": {CONTROL: "cpu"}},
    "a device map that is a number": {"device_map": 7},
    "trust of another hash": {"trust_remote_code": "sha256:x"},
    "trust that is a number": {"trust_remote_code": 7},
    "a manager that is a number": {"manager": 7},
    "a graph that is a text": {"graph": "x"},
    "a config for a folder": {"config": "/etc"},
    "an unknown component": {CONTROL: None},
    "a cache folder with NUL": {"cache_dir": "a\0b"},
    "a token of control characters": {"token": CONTROL},
}


def _called(place: Path, values: dict[str, Any]) -> Action:
    folder = checkpoint(place)
    pipe = sf.load(folder, manager=fresh())
    call = {**CALL, **values}
    if "latents" in values:
        call = {name: value for name, value in call.items() if name not in ("height", "width")}
    return lambda: pipe(**call)


def _loaded(place: Path, more: dict[str, Any]) -> Action:
    folder = checkpoint(place)
    settings: dict[str, Any] = {"manager": fresh(), **more}
    return lambda: sf.load(folder, **settings)(**CALL)
