"""The values on the wires of a workflow, as far as they are known without a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias


class ModelFile(NamedTuple):
    """A file that a loader names, and the folder of ComfyUI's `models` that it is in."""

    folder: str
    name: str


class Lora(NamedTuple):
    """An adapter and its strengths for the denoiser and the text encoders."""

    file: ModelFile
    model: float
    clip: float


@dataclass(frozen=True)
class Out:
    """An output of a node that is a block of its own in the graph: what it gives is known only in a run.

    kind: ComfyUI's type. family: of the models that made it; "" for pictures, texts and numbers.
    """

    node: str
    output: int
    kind: str
    family: str = ""


Setting: TypeAlias = int | float | str | bool | Out


@dataclass(frozen=True)
class Model:
    """A denoiser. scheduler: config keys that nodes set. guider: a guider's name and settings. patches: nodes that
    change its answers and have no block. prompts: pictures that it attends to. taps: changes of its layers, by name and
    settings."""

    file: ModelFile
    family: str
    loras: tuple[Lora, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict[str, Any])
    guider: tuple[str, Mapping[str, Any]] | None = None
    rescale: float = 0.0
    patches: tuple[Out, ...] = ()
    prompts: "tuple[ImagePrompt, ...]" = ()
    taps: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True)
class Clip:
    """Text encoders. skip: how many of the last layers are left out."""

    files: tuple[ModelFile, ...]
    family: str
    skip: int = 0
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True)
class Vae:
    """An autoencoder. file: None for the one of the checkpoint."""

    file: ModelFile
    family: str


@dataclass(frozen=True)
class Net:
    """A control net, a style model, a vision encoder or an upscaler."""

    file: ModelFile
    kind: str


@dataclass(frozen=True)
class Picture:
    """A picture file that a node loads. pad: grey margins around it."""

    node: str
    name: str
    family: str = ""
    pad: "Padding | None" = None


class Padding(NamedTuple):
    """Margins in pixels. feathering: the width of the strip inside that is painted in part."""

    left: int
    top: int
    right: int
    bottom: int
    feathering: int


@dataclass(frozen=True)
class PictureMask:
    """The transparent part of a picture file, or one of its channels; of a picture with margins, those."""

    picture: Picture
    channel: str = "alpha"


@dataclass(frozen=True)
class Empty:
    """Pure noise of a size, in pixels."""

    width: Setting
    height: Setting
    batch: Setting = 1


@dataclass(frozen=True)
class Encoded:
    """The latents of a picture; with a mask, the part to paint."""

    image: "Image"
    vae: Vae
    mask: "Mask | None" = None
    grow: int = 0


@dataclass(frozen=True)
class Enlarged:
    """Latents at another size: `by` a factor, or to a size in pixels."""

    node: str
    latents: "Latent"
    method: str
    by: float | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Sampled:
    """The latents that a sampler gives."""

    stage: "Stage"
    family: str


@dataclass(frozen=True)
class Decoded:
    """The pixels of latents."""

    node: str
    latents: "Latent"
    vae: Vae
    tile: int | None = None


@dataclass(frozen=True)
class Control:
    """A control net over a part of the steps."""

    net: Net
    image: "Image"
    strength: Setting
    start: Setting = 0.0
    end: Setting = 1.0
    mask: "Mask | None" = None


@dataclass(frozen=True)
class Style:
    """An image prompt of Flux (Redux)."""

    net: Net
    vision: Net
    image: "Image"
    strength: Setting


@dataclass(frozen=True)
class ImageAdapter:
    """An IP-Adapter. vision: the vision encoder that was loaded with it."""

    file: ModelFile
    vision: Net | None = None


@dataclass(frozen=True)
class ImagePrompt:
    """A picture that the denoiser attends to over a part of the steps. scale: also a table of blocks."""

    adapter: ModelFile
    vision: ModelFile
    image: "Image"
    scale: Setting | Mapping[str, Any] = 1.0
    start: Setting = 0.0
    end: Setting = 1.0
    negative: "Image | None" = None
    mask: "Mask | None" = None


@dataclass(frozen=True)
class Shown:
    """A picture that the denoiser reads as channels: with a mask (Fill), or alone (Canny, Depth)."""

    image: "Image"
    mask: "Mask | None" = None


@dataclass(frozen=True)
class Cond:
    """An encoded prompt. texts: by the names of the encoder's inputs ("prompt", "prompt_2")."""

    node: str
    clip: Clip
    texts: Mapping[str, Setting]
    family: str
    zeroed: bool = False
    guidance: Setting | None = None
    controls: tuple[Control, ...] = ()
    references: "tuple[Latent, ...]" = ()
    styles: tuple[Style, ...] = ()
    shown: Shown | None = None


@dataclass(frozen=True)
class Part:
    """One of several prompts for one picture. area: left, top, width, height, in pixels or in shares of the sides."""

    prompt: "Cond | Out"
    strength: float = 1.0
    area: tuple[float, float, float, float] | None = None
    in_pixels: bool = False
    mask: "Mask | None" = None
    start: float = 0.0
    stop: float = 1.0


@dataclass(frozen=True)
class Several:
    """Several prompts for one picture, or one with a place or an interval of steps."""

    parts: tuple[Part, ...]
    family: str


@dataclass(frozen=True)
class Seen:
    """A picture that a vision encoder has read."""

    vision: Net
    image: "Image"


@dataclass(frozen=True)
class Sampler:
    """A solver by ComfyUI's name."""

    name: str


@dataclass(frozen=True)
class Sigmas:
    """Noise levels: `steps` on a curve, of which a part is used; or a list of levels or of timesteps."""

    curve: str
    steps: Setting
    denoise: Setting = 1.0
    start: int = 0
    end: int | None = None
    levels: tuple[float, ...] = ()
    timesteps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Noise:
    """The seed; None for no noise."""

    seed: Setting | None


@dataclass(frozen=True)
class Guider:
    """A model, its prompts, and the strength of guidance."""

    model: Model
    positive: "Prompt"
    negative: "Prompt | None"
    cfg: Setting


@dataclass(frozen=True)
class Stage:
    """One run of a sampler. leftover: its latents keep the noise of the steps after `end`."""

    node: str
    guider: Guider
    latents: "Latent"
    sampler: Sampler
    sigmas: Sigmas
    noise: Noise
    leftover: bool = False


Prompt: TypeAlias = Cond | Several | Out
Latent: TypeAlias = Empty | Encoded | Enlarged | Sampled | Out
Image: TypeAlias = Picture | Decoded | Out
Mask: TypeAlias = PictureMask | Out
Value: TypeAlias = Any
"""One of the classes above, or a literal."""


def family_of(value: Value) -> str:
    """The family of the models that a value is of or comes from; "" where it is of none."""
    found = getattr(value, "family", "")
    return found if isinstance(found, str) else ""
