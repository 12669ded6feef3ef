"""The patterns of `search`, as diffusers documents them."""

import re
from collections.abc import Callable


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a name matches: `*` stands for any letters, `|` is "or", and a `!` before all of it turns it around.

    >>> [matcher(p)("text_encoder_2") for p in ("text*", "*encoder*", "unet|vae", "!unet|vae", "!*_2")]
    [True, True, False, True, False]
    """
    plain = pattern.removeprefix("!")
    names = "|".join(".*".join(map(re.escape, name.strip().split("*"))) for name in plain.split("|"))
    wanted, found = plain == pattern, re.compile(names)
    return lambda name: (found.fullmatch(name) is not None) == wanted
