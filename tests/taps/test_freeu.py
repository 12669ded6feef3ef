"""FreeU gives the reference's numbers, and those of its formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.taps import FreeU, Tap, Taps
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.freeu import FreeUpBlock, scaled_low_frequencies, structure_factor

from ..guiders.support import noise
from ..models.test_unet_2d_condition import CONFIGS

Pairs = Callable[[str, dict[str, Any]], tuple[Any, Any]]


def changed(unet: Any, change: FreeU, size: tuple[int, int]) -> Any:  # a U-Net
    return apply_taps(unet, Taps((Tap(change),)), size)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl refiner"])
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_freeu_is_the_references(read_random: Pairs, family: str, size: tuple[int, int]) -> None:
    ours, theirs = read_random("UNet2DConditionModel", CONFIGS[family])
    inputs: dict[str, Any] = {"encoder_hidden_states": noise(2, (2, 5, 24))}
    if "sdxl" in family:
        ids = 5 if "refiner" in family else 6
        inputs["added_cond_kwargs"] = {"text_embeds": noise(3, (2, 16)), "time_ids": noise(4, (2, ids)).abs() * 100}
    x = noise(1, (2, 4, *size))
    with torch.no_grad():
        theirs.enable_freeu(s1=0.9, s2=0.2, b1=1.3, b2=1.4)
        expected = theirs(x, 500, **inputs).sample
        plain, made = ours(x, 500, **inputs), changed(ours, FreeU(1.3, 1.4, 0.9, 0.2), size)(x, 500, **inputs)
    scale = expected.abs().max()
    assert (made - expected).abs().max() < 1e-5 * max(1, scale)  # measured: at most 1e-6 of the largest
    assert (made - plain).abs().max() > 1e-3


def test_low_frequencies_are_scaled_and_others_stay() -> None:
    x = noise(1, (2, 3, 6, 10))
    before, after = (torch.fft.fft2(t) for t in (x, scaled_low_frequencies(x, 0.2)))
    low = torch.zeros(6, 10, dtype=torch.bool)
    low[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    # The frequency (-1, 0) has a partner (1, 0) that is not scaled: the result is complex, and its real part is taken.
    filtered = torch.fft.ifft2(torch.where(low, 0.2 * before, before)).real
    assert (torch.fft.ifft2(after).real - filtered).abs().max() < 1e-5
    assert (scaled_low_frequencies(x, 1.0) - x).abs().max() < 1e-6


def test_the_second_version_follows_the_structure() -> None:
    x = noise(1, (2, 4, 3, 5))
    for row in range(2):
        mean = torch.stack([x[row, c] for c in range(4)]).mean(0)
        expected = 1 + 0.4 * (mean - mean.min()) / (mean.max() - mean.min())
        assert (structure_factor(x, 1.4)[row, 0] - expected).abs().max() < 1e-6
    assert torch.equal(structure_factor(torch.ones(1, 4, 2, 2), 1.4), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("version", [1, 2])
def test_ones_are_neutral(version: Any) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        unet = UNet2DConditionModel.from_config(CONFIGS["sd1"])
        x, words = noise(1, (1, 4, 8, 8)), noise(2, (1, 5, 24))
        made = changed(unet, FreeU(1, 1, 1, 1, version), (8, 8))(x, 500, words)
        assert (made - unet(x, 500, words)).abs().max() < 1e-5


def test_half_precision_is_transformed_in_full() -> None:
    level = object.__new__(FreeUpBlock)
    level.__dict__.update(backbone=1.3, skip=0.9, by_structure=False)
    x, skip = (noise(s, (1, 4, 6, 10)) for s in (1, 2))
    full, half = level.joined(x, skip), level.joined(x.bfloat16(), skip.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).abs().max() < 0.05


def test_freeu_is_refused_where_it_cannot_be() -> None:
    with torch.random.fork_rng():
        flux = sf.models.FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=0, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        unet = UNet2DConditionModel.from_config(CONFIGS["sd1"])
    with pytest.raises(sf.ConfigError, match=r"^FreeU needs a U-Net, and FluxTransformer2DModel has no skips\. Leave"):
        changed(flux, FreeU(), (4, 4))
    with pytest.raises(sf.ConfigError, match=r"^FreeU changes the first two up levels, and no layers can be named\."):
        apply_taps(unet, Taps((Tap(FreeU(), ("mid",)),)), (8, 8))
    with pytest.raises(sf.ConfigError, match=r"^FreeU\.version takes 1 \| 2, got 3\.$"):
        FreeU(version=3)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(sf.ConfigError, match=r"^FreeU has no 'b3'\. There are: b1, b2, s1, s2, version\.$"):
        FreeU(b3=1)  # type: ignore[call-arg]  # what is refused
