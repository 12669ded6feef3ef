"""Nodes whose work is done in a run: a table from node types to blocks, which users extend."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ....blocks.image.resize import InvertImages, JoinImages, MeasureImages, ResizeImages
from ....blocks.text.micro_conditioning import AddSizes, SizeIds
from ....blocks.text.redux import ImageTokens
from ....components.conditioning import SDXLText
from ....components.prompt_parts import PromptPart, PromptParts
from ....graph import Block, ConfigError
from ....graph.typing.port import port_of
from .given import Unmapped

Settings = Mapping[str, Any]
"""The literals of a node by name: JSON values."""
Make = Callable[[Settings], Block]
_KINDS = {
    "images": "IMAGE", "mask": "MASK", "latents": "LATENT", "image_latents": "LATENT", "predict": "MODEL",
}  # fmt: skip
_PLAIN = {str: "STRING", int: "INT", float: "FLOAT", bool: "BOOLEAN"}


@dataclass(frozen=True)
class BlockNode:
    """How a node type becomes a block. inputs: from the node's names to the block's. outputs: the block's, in order."""

    make: Make
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    outputs: Sequence[str] = ()


BLOCKS: dict[str, BlockNode] = {}
"""By node type."""


def node(kind: str, *, inputs: Mapping[str, str] | None = None, outputs: Sequence[str] = ()) -> Callable[[Make], Make]:
    """Register a block for a node type of ComfyUI: a decorator for a function that makes the block.

    The function gets the literals of a node. A link into the node becomes an edge into the input of the block that has
    the name, or the name that `inputs` says.

    Args:
        kind: the type of the node, as files have it.
        inputs: names of the node's inputs, and of the block's where they differ.
        outputs: the block's outputs, in the order of the node's; by default all.

    Raises:
        ConfigError: a type that has a block already.
    """
    if kind in BLOCKS:
        raise ConfigError(
            f"The node type {kind!r} has a block already. Remove that first: del comfyui.BLOCKS[{kind!r}]."
        )

    def add(make: Make) -> Make:
        BLOCKS[kind] = BlockNode(make, inputs or {}, tuple(outputs))
        return make

    return add


def kind_of(hint: Any) -> str:
    """ComfyUI's type of a port type; "*" for one that it does not have."""
    port = port_of(hint)
    if port is not None:
        return _KINDS.get(port.kind, "*")
    name = getattr(hint, "__name__", "")
    return _PLAIN.get(hint, "CONDITIONING" if name.endswith("Conditioning") else "*")


class Texted(NamedTuple):
    """A text."""

    text: str


class ConcatenateTexts(Block, name="comfyui.ConcatenateTexts"):
    """Put two texts together, with `delimiter` between them."""

    delimiter: str = ""

    def __call__(self, string_a: str = "", string_b: str = "") -> Texted:
        """Put them together."""
        return Texted(f"{string_a}{self.delimiter}{string_b}")


class ReplaceText(Block, name="comfyui.ReplaceText"):
    """Replace each `find` in a text."""

    def __call__(self, string: str, find: str, replace: str) -> Texted:
        """Replace it."""
        return Texted(string.replace(find, replace))


class SizedPrompts(NamedTuple):
    """Several prompts for the U-Net."""

    prompt_parts: PromptParts


class AddSizesToPrompts(Block, name="comfyui.AddSizesToPrompts"):
    """Add the sizes that SDXL reads to several prompts."""

    def __call__(self, prompt_parts: PromptParts, sizes: SizeIds) -> SizedPrompts:
        """Add them to each."""

        def sized(part: PromptPart) -> PromptPart:
            text = part.conditioning
            if not isinstance(text, SDXLText):
                return part
            return replace(part, conditioning=AddSizes()(text, sizes).conditioning)

        return SizedPrompts(tuple(map(sized, prompt_parts)))


class ScaledTokens(NamedTuple):
    """Tokens of pictures."""

    image_tokens: ImageTokens


class ScaleImageTokens(Block, name="comfyui.ScaleImageTokens"):
    """Multiply the tokens of pictures by a number, and not those of the prompt."""

    strength: float = 1.0

    def __call__(self, image_tokens: ImageTokens) -> ScaledTokens:
        """Multiply them."""
        return ScaledTokens(image_tokens * self.strength)


# ------------------------------------------------------------------------------------------------- our own table
_METHODS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area", "lanczos")


def _image_node(kind: str) -> Callable[[Make], Make]:
    return node(kind, inputs={"image": "images", "input": "images"}, outputs=("images",))


def _method(settings: Settings, name: str = "upscale_method") -> Any:  # a Filter
    method = str(settings.get(name, "bilinear"))
    return method if method in _METHODS else "bicubic"


@_image_node("ImageScale")
def _scale(settings: Settings) -> Block:
    return ResizeImages(
        width=int(settings.get("width", 0)), height=int(settings.get("height", 0)), method=_method(settings),
        crop=settings.get("crop") == "center",
    )  # fmt: skip


@_image_node("ImageScaleBy")
def _scale_by(settings: Settings) -> Block:
    return ResizeImages(rule="factor", number=float(settings.get("scale_by", 1.0)), method=_method(settings))


@_image_node("ImageScaleToTotalPixels")
def _scale_to_pixels(settings: Settings) -> Block:
    multiple = max(int(settings.get("resolution_steps", 1)), 1)
    number = float(settings.get("megapixels", 1.0))
    return ResizeImages(rule="pixels", number=number, method=_method(settings), multiple=multiple)


@_image_node("ImageScaleToMaxDimension")
def _scale_to_side(settings: Settings) -> Block:
    return ResizeImages(rule="longest", number=float(settings.get("largest_size", 512)), method=_method(settings))


@_image_node("ResizeImageMaskNode")
def _resize(settings: Settings) -> Block:
    """The first widget is the rule."""
    values = {name.rpartition(".")[2]: value for name, value in settings.items()}
    rule, method = str(values["resize_type"]), _method(values, "scale_method")
    width, height = (int(values.get(name) or 0) for name in ("width", "height"))
    match rule:
        case "scale dimensions":
            return ResizeImages(width=width, height=height, method=method, crop=values.get("crop") == "center")
        case "scale width":
            return ResizeImages(width=width, method=method)
        case "scale height":
            return ResizeImages(height=height, method=method)
        case "scale by multiplier":
            return ResizeImages(rule="factor", number=float(values["multiplier"]), method=method)
        case "scale longer dimension":
            return ResizeImages(rule="longest", number=float(values["longer_size"]), method=method)
        case "scale shorter dimension":
            return ResizeImages(rule="shortest", number=float(values["shorter_size"]), method=method)
        case "scale total pixels":
            return ResizeImages(rule="pixels", number=float(values["megapixels"]), method=method)
        case "scale to multiple":
            return ResizeImages(rule="multiple", number=float(values["multiple"]), method=method)
        case _:
            raise Unmapped(f"resize_type={rule!r} has no block")


@_image_node("ImageInvert")
def _invert(settings: Settings) -> Block:
    return InvertImages()


@node("ImageBatch", inputs={"image1": "images", "image2": "more"}, outputs=("images",))
def _batch(settings: Settings) -> Block:
    return JoinImages()


@node("GetImageSize", inputs={"image": "images"}, outputs=("width", "height", "batch_size"))
def _measure(settings: Settings) -> Block:
    return MeasureImages()


@node("StringConcatenate", outputs=("text",))
def _concatenate(settings: Settings) -> Block:
    return ConcatenateTexts(delimiter=str(settings.get("delimiter", "")))


@node("StringReplace", outputs=("text",))
def _replace(settings: Settings) -> Block:
    return ReplaceText()
