"""The tiny pipeline of the tests of engines."""

from ..engines.conftest import pipe as pipe
from ..engines.conftest import recorder as recorder
from ..engines.conftest import unet as unet
from ..presets.conftest import emoji as emoji
