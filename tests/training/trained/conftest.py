"""Fixtures of the tests of trained components."""

import pytest
import torch

import sfumato as sf
from sfumato import Graph
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

from .support import TINY_UNET


@pytest.fixture(scope="session")
def unet() -> UNet2DConditionModel:
    """A tiny U-Net of random weights, as it was made: its parameters need gradients."""
    torch.manual_seed(0)
    return UNet2DConditionModel(**TINY_UNET).eval()


@pytest.fixture(scope="session")
def emoji() -> Graph:
    """The embedded real model, up to its latents."""
    return sf.load("emoji").only("latents")
