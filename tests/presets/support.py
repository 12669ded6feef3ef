"""What the tests of presets share: the reference pipelines run quietly, pictures, and a count of what models do."""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sfumato import ComponentsManager, Graph
from sfumato.graph import Lazy

SCHEDULERS = ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDPMScheduler")
EMBEDDED = Path(__file__).parents[2] / "presets" / "embedded" / "emoji"


class Result(NamedTuple):
    """What a run gives: the last latents, and pixels (images, rows, columns, 3) from 0 to 1."""

    latents: Tensor
    images: NDArray[np.float32]


class Apart(NamedTuple):
    """The largest differences of two results. Pixels are counted in steps of 1/255."""

    latents: float
    pixels: float


def apart(ours: Result, theirs: Result) -> Apart:
    assert ours.latents.shape == theirs.latents.shape
    assert ours.images.shape == theirs.images.shape
    pixels = np.abs(ours.images - theirs.images).max() * 255
    return Apart(float((ours.latents - theirs.latents).abs().max()), float(pixels))


def run(pipe: Graph, **inputs: Any) -> Result:
    """Ours: both results of one run."""
    out = pipe.only("latents", "images")(output_type="np", **inputs)
    return Result(out.latents, out.images)


def run_in_parts(pipe: Graph, stop: int, seed: Any, **inputs: Any) -> Result:
    """Ours: stopped before a step, then gone on with. The second run gets the same inputs without the seed."""
    half = pipe.only("halfway")(stop_step=stop, seed=seed, **inputs).halfway
    return run(pipe, halfway=half, **inputs)


@contextmanager
def quiet() -> Generator[None]:
    """The reference warns of its own deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Where diffusers makes models: in peace, with random weights that are the same in every run."""
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class Reference:
    """A pipeline of diffusers. A call makes its own scheduler, and takes seeds as ours do."""

    CLASSES: Mapping[str, str] = {
        "text2image": "StableDiffusionPipeline",
        "image2image": "StableDiffusionImg2ImgPipeline",
        "inpaint": "StableDiffusionInpaintPipeline",
        "consistency image2image": "LatentConsistencyModelImg2ImgPipeline",
    }

    def __init__(self, diffusers: Any, folder: Path) -> None:
        self.diffusers = diffusers
        with quiet():
            self.pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.config = dict(self.pipe.scheduler.config)
        # Its clip_skip still asks for `text_model`, which transformers 5 does not have: diffusers 0.42.1 crashes there.
        object.__setattr__(self.pipe.text_encoder, "text_model", self.pipe.text_encoder)

    def settings(self, task: str) -> Mapping[str, bool]:
        """What the class of a task takes beside components."""
        return {"requires_safety_checker": False}

    def __call__(
        self,
        task: str = "text2image",
        scheduler: str = "",
        seed: int | Sequence[int] | torch.Generator = 0,
        **inputs: Any,
    ) -> Result:
        with quiet():
            kind = getattr(self.diffusers, scheduler or self.config["_class_name"])
            parts = {**self.pipe.components, "scheduler": kind.from_config(self.config)}
            pipe = getattr(self.diffusers, self.CLASSES[task])(**parts, **self.settings(task))
            pipe.set_progress_bar_config(disable=True)
            last: list[Tensor] = []

            def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
                last[:] = [values["latents"]]
                return {}

            generator: Any = seed
            if isinstance(seed, int):
                generator = torch.Generator("cpu").manual_seed(seed)
            elif not isinstance(seed, torch.Generator):
                generator = [torch.Generator("cpu").manual_seed(s) for s in seed]
            given = {"output_type": "np", **inputs}
            images = pipe(generator=generator, callback_on_step_end=keep, **given).images
        return Result(last[0], images)


def picture(seed: int = 0, rows: int = 64, columns: int = 64) -> Image.Image:
    """A smooth colourful picture."""
    small = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    pixels = nn.functional.interpolate(small, size=(rows, columns), mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy())


def half(rows: int = 64, columns: int = 64) -> Image.Image:
    """A mask: the right half is to be painted."""
    pixels = np.zeros((rows, columns), np.uint8)
    pixels[:, columns // 2 :] = 255
    return Image.fromarray(pixels)


class Counts:
    """How often each component of a pipe was asked to work; `counted` makes them."""

    def __init__(self) -> None:
        self.text_encoder = self.unet = self.encode = self.decode = 0
        self.rows: list[int] = []
        """The rows of each pass through the U-Net."""

    @property
    def all(self) -> int:
        return self.text_encoder + self.unet + self.encode + self.decode

    def __repr__(self) -> str:
        return f"Counts(text {self.text_encoder}, unet {self.unet}, encode {self.encode}, decode {self.decode})"


@contextmanager
def counted(pipe: Graph) -> Generator[Counts]:
    """Count what the models of a loaded pipe do."""
    counts = Counts()

    def one(name: str) -> Callable[..., None]:
        def add(_module: nn.Module, args: tuple[Any, ...], _out: object) -> None:
            setattr(counts, name, getattr(counts, name) + 1)
            if name == "unet":
                counts.rows.append(len(args[0]))

        return add

    parts = {name: value for name in pipe.bindings if isinstance(value := held(pipe, name), nn.Module)}
    hooks: list[Any] = []
    if "text_encoder" in parts:
        hooks += [next(iter(parts["text_encoder"].children())).register_forward_hook(one("text_encoder"))]
    if "unet" in parts:
        hooks += [parts["unet"].register_forward_hook(one("unet"))]
    if "vae" in parts:
        vae: Any = parts["vae"]
        hooks += [vae.encoder.register_forward_hook(one("encode")), vae.decoder.register_forward_hook(one("decode"))]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def held(pipe: Graph, name: str) -> Any:  # whichever component
    """The object that a pipe has bound, loaded if need be."""
    value = pipe.bindings[name]
    return value.load() if isinstance(value, Lazy) else value


def fresh() -> ComponentsManager:
    """A manager that holds nothing yet."""
    return ComponentsManager()
