"""Models that tests of training run on: those of the tests of presets."""

from collections.abc import Callable
from pathlib import Path

import pytest

import sfumato as sf
from sfumato import Graph

from ..presets.conftest import checkpoint as checkpoint
from ..presets.conftest import diffusers as diffusers
from ..presets.conftest import emoji as emoji
from ..presets.conftest import tiny as tiny
from ..presets.conftest import tiny_reference as tiny_reference
from ..presets.flux import flux as flux
from ..presets.flux import flux_checkpoint as flux_checkpoint
from ..presets.flux import flux_reference as flux_reference
from ..presets.sd3 import sd3 as sd3
from ..presets.sd3 import sd3_checkpoint as sd3_checkpoint
from ..presets.sd3 import sd3_reference as sd3_reference
from ..presets.sdxl import xl as xl
from ..presets.sdxl import xl_checkpoint as xl_checkpoint
from ..presets.sdxl import xl_reference as xl_reference
from ..presets.test_pixart import folder as folder


@pytest.fixture(scope="module")
def pixart(folder: Callable[[str], Path]) -> Callable[[], Graph]:
    """Loads a tiny checkpoint of PixArt-Sigma."""
    return lambda: sf.load(folder("sigma"))
