"""`<lora:name:0.8>` in a text."""

import re

from ...graph.errors import UnfitValue
from ...registry.text import shortened
from .rules import LoraTag

_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
_NUMBER = re.compile(r"[+-]?(?:\d{1,9}(?:\.\d{0,20})?|\.\d{1,20})")


def without_loras(text: str) -> str:
    """The text without the LoRAs that it names."""
    return _TAG.sub("", text)


def loras_in(text: str) -> list[LoraTag]:
    """The LoRAs that a text names, in order.

    `<lora:name:0.8>` has one strength, `<lora:name:0.8:0.5>` one for the text encoders and one for the denoiser. They
    may be named: `<lora:name:te=0.8:unet=0.5>`.

    Raises:
        UnfitValue: no name, or a strength that is no number.
    """
    return [_tag(found[0], found[1]) for found in _TAG.finditer(text)]


def _tag(whole: str, inside: str) -> LoraTag:
    name, *rest = (part.strip() for part in inside.split(":"))
    named = dict(part.split("=", 1) for part in rest if "=" in part)
    plain = [part for part in rest if "=" not in part]
    numbers = [*plain, *named.values()]
    if not name or len(plain) > 2 or named.keys() - {"te", "unet"} or not all(map(_NUMBER.fullmatch, numbers)):
        raise UnfitValue(
            f"{shortened(repr(whole), 200)} is no LoRA with strengths. Write <lora:name:0.8>, or "
            "<lora:name:te=0.8:unet=0.5> with a strength for the text encoders and one for the denoiser."
        )
    text_encoders = float(named.get("te", plain[0] if plain else 1.0))
    denoiser = float(named.get("unet", plain[1] if len(plain) > 1 else text_encoders))
    return LoraTag(name, text_encoders, denoiser)
