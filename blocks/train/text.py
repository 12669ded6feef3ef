"""Prompts of training that the data does not have."""

from typing import NamedTuple

from ...components.random import Random
from ...graph import Block
from ...graph.errors import ConfigError, UnfitValue
from ...registry import printable
from ..text.prompts import Prompt
from .encode import PosteriorPort

OBJECT = (
    "a photo of {}", "a rendering of {}", "a close-up photo of {}", "a cropped photo of {}", "a bright photo of {}",
    "a dark photo of {}", "a photo of one {}", "a photo of the {}", "a photo of my {}", "a good photo of {}",
)  # fmt: skip
"""Templates for a thing, after those of Gal et al. 2022."""
STYLE = (
    "a painting in the style of {}", "a picture in the style of {}", "a rendering in the style of {}",
    "a cropped painting in the style of {}", "a close-up painting in the style of {}",
    "a bright painting in the style of {}", "a dark painting in the style of {}", "an image in the style of {}",
)  # fmt: skip
"""Templates for a style, after those of Gal et al. 2022."""


class Worded(NamedTuple):
    """A prompt for all rows."""

    prompt: Prompt


class MakePrompt(Block):
    """Make one prompt for all rows, for pictures without captions. text: the prompt; "" is none."""

    text: str = ""

    def __call__(self) -> Worded:
        return Worded(self.text)


class CheckCaptions(Block):
    """Let the captions of a batch pass if one of them has a word that is learned, or is empty. words: the learned ones.

    Raises:
        UnfitValue: other captions. A step with them would change nothing.
    """

    words: tuple[str, ...]

    def __call__(self, prompt: Prompt) -> Worded:
        texts = [prompt] if isinstance(prompt, str) else [*prompt]
        if all(text and not any(word in text for word in self.words) for text in texts):
            raise UnfitValue(
                f"The caption {printable(repr(texts[0]))} has no word that is learned: {', '.join(self.words)}. Write "
                "one in it, or set trigger= of sf.data.Captions."
            )
        return Worded(prompt)


class DrawnPrompts(NamedTuple):
    """A text for each row."""

    prompt: tuple[str, ...]
    random: Random


class DrawPrompts(Block):
    """Draw a template for each row, and write the words in it (Gal et al. 2022, section 4.1).

    words: the text for "{}". templates: all of them are drawn equally often.

    Raises:
        ConfigError: no template, or one without "{}".
    """

    words: str
    templates: tuple[str, ...] = OBJECT

    def __post_init__(self) -> None:
        wrong = [text for text in self.templates if "{}" not in text]
        if wrong or not self.templates:
            got = repr(wrong[0]) if wrong else "none"
            raise ConfigError(f'templates: needs texts with "{{}}" for the word, got {got}. Write "a photo of {{}}".')

    def __call__(self, posterior: PosteriorPort, random: Random) -> DrawnPrompts:
        numbers, random = random.integers(len(posterior.mean), len(self.templates))
        return DrawnPrompts(tuple(self.templates[i].replace("{}", self.words) for i in numbers.tolist()), random)
