"""The noise of CUDA devices on a CPU.

Checked here: Philox 4x32-10 with the three published vectors of Random123 (`kat_vectors`), to the bit; the normal
numbers with those that A1111's web UI documents for its own copy of the noise of CUDA (seed 0), within 1e-6. Not
checked here: a GPU.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sfumato as sf
from sfumato.components.philox import normal, philox
from sfumato.components.random import Random

VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
DOCUMENTED = [
    -0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564, -0.62285122, -0.32838709,
    -1.07454231, -0.36314407, -1.67105067, 2.26550497,
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_the_published_vectors_of_philox(counter: str, key: str, words: str) -> None:
    found = philox([np.array([int(w, 16)], np.uint64) for w in counter.split()], (int(key[:8], 16), int(key[9:], 16)))
    assert " ".join(f"{int(word[0]):08x}" for word in found) == words


def test_the_documented_numbers_of_a_cuda_device() -> None:
    assert np.allclose(normal(0, 0, 12), DOCUMENTED, rtol=0, atol=1e-6)


def test_noise_of_a_gpu_is_a_kind_of_random_numbers() -> None:
    drawn, after = Random.seeded([0], "gpu").draw(3, (4,))
    assert drawn.dtype == torch.float32 and torch.allclose(drawn.flatten(), torch.tensor(DOCUMENTED), rtol=0, atol=1e-6)
    more, _ = after.draw(3, (4,))
    assert torch.equal(more.flatten(), torch.from_numpy(normal(0, 1, 12)))


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=2, max_size=3), st.integers(1, 9))
def test_each_row_has_the_numbers_of_its_seed(seeds: list[int], size: int) -> None:
    rows, _ = Random.seeded(seeds, "gpu").draw(len(seeds), (size,))
    for row, seed in zip(rows, seeds, strict=True):
        assert torch.equal(row, Random.seeded([seed], "gpu").draw(1, (size,))[0][0])


def test_the_numbers_are_normal() -> None:
    drawn = Random.seeded([5], "gpu").draw(1, (100_000,))[0].double()
    assert abs(float(drawn.mean())) < 0.01 and abs(float(drawn.std()) - 1) < 0.01
    assert abs(float(drawn.pow(4).mean()) - 3) < 0.1


@pytest.mark.parametrize("state", [torch.zeros(2), torch.zeros(3, dtype=torch.int64), torch.tensor([0, -1])])
def test_states_of_strangers_are_checked(state: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="is no state of a generator"):
        Random((state,), "gpu").check()


def test_a_call_chooses_the_noise() -> None:
    call = {"prompt": "a fox", "seed": 7, "num_inference_steps": 2, "output_type": "pt"}
    pipe = sf.load("emoji")
    gpu, cpu = pipe(**call, noise="gpu").images, pipe(**call).images
    latents = torch.from_numpy(normal(7, 0, 8 * 8 * 8)).reshape(1, 8, 8, 8)
    assert torch.equal(gpu, pipe(**call, latents=latents).images)
    assert not torch.equal(gpu, cpu) and torch.equal(cpu, pipe(**call, noise="cpu").images)
