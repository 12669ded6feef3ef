"""Models that tests of training run on: those of the tests of presets."""

from ..presets.conftest import checkpoint as checkpoint
from ..presets.conftest import diffusers as diffusers
from ..presets.conftest import emoji as emoji
from ..presets.conftest import tiny as tiny
