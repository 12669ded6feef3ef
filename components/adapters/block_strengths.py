"""Strengths of single blocks: by the paths of layers, and by the lists of numbers that other programs use.

The lists and the names of their blocks are those of sd-webui-lora-block-weight: "BASE" is the text encoders, "IN04" and
"OUT11" are the input and output blocks of the authors' U-Net, "M00" is its middle, "D00" and "S00" are the double and
single blocks of Flux.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, cast

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from .names import ENCODERS

Blocks: TypeAlias = Mapping[str, float] | Sequence[float] | str
"""Factors by name, a list of them, or the name of a preset."""


def _ids(text: str) -> tuple[str, ...]:
    """The names of a list: "IN00-11 M00" -> IN00, IN01 … IN11, M00."""
    found: list[str] = []
    for part in text.split():
        head, first, last = cast("re.Match[str]", re.fullmatch(r"([A-Z]+)(\d\d)?(?:-(\d\d))?", part)).groups()
        if first is None:
            found.append(part)
        else:
            found += [f"{head}{number:02}" for number in range(int(first), int(last or first) + 1)]
    return tuple(found)


_SD = _ids("BASE IN00-11 M00 OUT00-11")
_SDXL = _ids("BASE IN00-08 M00 OUT00-08")
_FLUX = _ids("D00-18 S00-37")
_LISTS: Mapping[int, tuple[tuple[str, ...], tuple[str, ...]]] = {
    12: (_ids("BASE IN04-05 IN07-08 M00 OUT00-05"), _SDXL),
    17: (_ids("BASE IN01-02 IN04-05 IN07-08 M00 OUT03-11"), _SD),
    19: (_ids("D00-18"), ()),
    20: (_SDXL, ()),
    26: (_SD, ()),
    57: (_FLUX, ()),
    61: (("CLIP", "T5", "IN", *_FLUX, "OUT"), ()),
}
"""By the count of numbers: the blocks that they are for, and the blocks that are 0 where the list leaves them out."""
_USES = "12 or 20 for SDXL, 17 or 26 for SD 1 and 2, 19, 57 or 61 for Flux"
_PRESETS = {
    name: tuple(map(float, digits))
    for name, digits in {
        "NONE": "00000000000000000", "ALL": "11111111111111111", "INS": "11110000000000000",
        "IND": "10001110000000000", "INALL": "11111110000000000", "MIDD": "10001111111100000",
        "OUTD": "10000000111100000", "OUTS": "10000000000011111", "OUTALL": "10000000111111111",
    }.items()
}  # fmt: skip
"""The lists of 17 with customary names."""
_COMPONENTS = {"BASE": ENCODERS, "CLIP": ENCODERS[:1], "T5": ENCODERS[1:2]}
"""Blocks of lists that are whole components."""
_SHORT = {"mid": "mid_block", "down": "down_blocks", "up": "up_blocks"}
_ID = re.compile(r"(?P<kind>IN|M|OUT|D|S)(?P<number>\d\d)")


def read_blocks(blocks: Any) -> tuple[Mapping[str, float], Mapping[str, float]]:  # any value, from the user
    """The factors of single blocks, by name, and those of components.

    Args:
        blocks: factors by name; a list of numbers, or a text of them with commas; the name of a preset.

    Raises:
        ConfigError: a list of another length, a preset that is not known, names that are no texts.
    """
    if isinstance(blocks, str):
        blocks = _of_text(blocks)
    if isinstance(blocks, Mapping):
        named = cast("Mapping[Any, Any]", blocks)
        if wrong := [name for name in named if not isinstance(name, str) or not name]:
            raise ConfigError(f"blocks: needs names of blocks, such as 'mid' or 'up.1'. Got {wrong[0]!r}.")
        factors = dict(cast("Mapping[str, float]", blocks))
    elif isinstance(blocks, list | tuple):
        numbers = cast("Sequence[float]", blocks)
        if len(numbers) not in _LISTS:
            raise ConfigError(f"blocks: needs {_USES}. Got a list of {len(numbers)}.")
        names, others = _LISTS[len(numbers)]
        factors = {**dict.fromkeys(others, 0.0), **dict(zip(names, numbers, strict=True))}
    else:
        raise ConfigError(f"blocks: needs factors by name, a list of numbers, or the name of a preset. Got {blocks!r}.")
    components = {part: factors[name] for name, parts in _COMPONENTS.items() if name in factors for part in parts}
    return {name: factor for name, factor in factors.items() if name not in _COMPONENTS}, components


def _of_text(text: str) -> Sequence[float]:
    if "," not in text:
        if text not in _PRESETS:
            raise ConfigError(f"blocks: there is no preset {text!r}. {did_you_mean(text, _PRESETS)}")
        return _PRESETS[text]
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"blocks: needs numbers with commas, or the name of a preset. Got {text!r}.") from None


@lru_cache(maxsize=1024)
def places_of(name: str) -> tuple[str, ...]:
    """The first parts of the paths of a block's layers.

    >>> places_of("up.1"), places_of("IN05")
    (('up_blocks.1',), ('down_blocks.1.resnets.1', 'down_blocks.1.attentions.1'))
    """
    if name == "IN":
        return "x_embedder", "context_embedder", "time_text_embed"
    if name == "OUT":
        return "norm_out", "proj_out"
    if (found := _ID.fullmatch(name)) is None:
        head, dot, rest = name.partition(".")
        return (_SHORT.get(head, head) + dot + rest,)
    number = int(found["number"])
    match found["kind"]:
        case "IN" if number == 0:
            return ("conv_in",)
        case "IN":
            return _of_level("down_blocks", *divmod(number - 1, 3))
        case "OUT":
            return _of_level("up_blocks", *divmod(number, 3))
        case "M":
            return ("mid_block",)
        case kind:
            return (f"{'single_' if kind == 'S' else ''}transformer_blocks.{number}",)


def _of_level(side: str, level: int, place: int) -> tuple[str, ...]:
    """The authors' input blocks of a level are two layers and the downsampler; its output blocks are three layers, of
    which the last has the upsampler."""
    if side == "down_blocks" and place == 2:
        return (f"{side}.{level}.downsamplers",)
    more = (f"{side}.{level}.upsamplers",) if place == 2 else ()
    return f"{side}.{level}.resnets.{place}", f"{side}.{level}.attentions.{place}", *more


def factor_of(blocks: Mapping[str, float], path: str) -> float:
    """The factor of a layer: that of the longest name that its path begins with; 1 where none does."""
    factor, longest = 1.0, -1
    for name, value in blocks.items():
        for place in places_of(name):
            if len(place) >= longest and _is_in(path, place):
                factor, longest = value, len(place)
    return factor


def _is_in(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def check_blocks(name: str, blocks: Mapping[str, float], paths: Iterable[str]) -> None:
    """ConfigError for a block that has no layer in the models of a graph. name: of the adapter."""
    layers = list(paths)
    for block in blocks:
        if not any(_is_in(path, place) for place in places_of(block) for path in layers):
            known = sorted({".".join(path.split(".")[:2]) for path in layers})
            raise ConfigError(f"{name}: the models of the graph have no block {block!r}. {did_you_mean(block, known)}")
