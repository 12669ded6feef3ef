"""Scales of an image prompt in each layer of a denoiser: a number, a list or a table of blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...graph.errors import UnfitValue
from ...registry import did_you_mean

_PARTS = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}
Place = tuple[str, int, int]
"""A part ("down"), the number of a block in it, and that of a transformer in the block."""


def scales_of(scale: Any, paths: Sequence[str]) -> dict[str, float]:  # what a user passed
    """The scale of each attention to the prompt.

    Args:
        scale: a number for all; or a table {"down": …, "mid": …, "up": …}. Its entries are numbers, or for "down" and
            "up" tables {"block_0": …} of a number, or of a list with one number for each transformer of the block.
            What a table does not name has 0.
        paths: of the attention, such as "up_blocks.1.attentions.0.transformer_blocks.0.attn2".

    Raises:
        UnfitValue: a part, a block or a transformer that the U-Net does not have; anything but numbers.
    """
    if _is_number(scale):
        return dict.fromkeys(paths, float(scale))
    if not isinstance(scale, Mapping):
        raise UnfitValue(
            f"ip_adapter_scale: needs a number or a table of blocks, got {scale!r}. One number for each picture needs "
            "masks: pass ip_adapter_masks=."
        )
    places = {path: _place(path) for path in paths}
    known = set(places.values())
    found: dict[Place, float] = {}
    for part, value in scale.items():
        if part not in _PARTS:
            raise UnfitValue(f"ip_adapter_scale: has no part {part!r}. {did_you_mean(str(part), _PARTS)}")
        found |= _part(part, value, sorted(place for place in known if place[0] == part))
    return {path: found.get(place, 0.0) for path, place in places.items()}


def block_scales(scale: Any, count: int) -> list[float]:  # what a user passed
    """The scale of each block of a transformer.

    Args:
        scale: a number for all, or one for each block.
        count: of the blocks.

    Raises:
        UnfitValue: another number of numbers; anything but numbers.
    """
    if _is_number(scale):
        return [float(scale)] * count
    if not isinstance(scale, list | tuple) or len(scale) != count or not all(map(_is_number, scale)):
        raise UnfitValue(
            f"ip_adapter_scale: needs a number, or a list of {count} (one for each block of the transformer), got "
            f"{scale!r}."
        )
    return [float(one) for one in scale]


def _part(part: str, value: Any, places: Sequence[Place]) -> dict[Place, float]:
    blocks = {f"block_{number}": number for _, number, _ in places}
    if part == "mid" or not isinstance(value, Mapping):
        return {place: scale for number in blocks.values() for place, scale in _block(part, value, number, places)}
    found: dict[Place, float] = {}
    for name, inner in value.items():
        if name not in blocks:
            raise UnfitValue(f"ip_adapter_scale: {part!r} has no attention in {name!r}. {did_you_mean(name, blocks)}")
        found.update(_block(f"{part}.{name}", inner, blocks[name], places))
    return found


def _block(name: str, value: Any, number: int, places: Sequence[Place]) -> list[tuple[Place, float]]:
    own = [place for place in places if place[1] == number]
    values = list(value) if isinstance(value, list | tuple) else [value]
    values = values * len(own) if len(values) == 1 else values
    if len(values) != len(own) or not all(map(_is_number, values)):
        raise UnfitValue(
            f"ip_adapter_scale: {name} needs a number, or a list of {len(own)} (one for each transformer of the "
            f"block), got {value!r}."
        )
    return [(place, float(scale)) for place, scale in zip(own, values, strict=True)]


def _place(path: str) -> Place:
    head, *rest = path.split(".")
    part = next(short for short, long in _PARTS.items() if long == head)
    numbers = [int(name) for name in rest if name.isdecimal()]
    return (part, 0, numbers[0]) if part == "mid" else (part, numbers[0], numbers[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
