"""The reference implementation and the embedded model, as the tests of presets have them."""

from ..presets.conftest import diffusers as diffusers
from ..presets.conftest import emoji as emoji
from ..presets.conftest import emoji_reference as emoji_reference
