"""Customary curves: the levels that A1111, k-diffusion and ComfyUI have by these names, written down independently."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.stats
from diffusers.schedulers.scheduling_utils import AysSchedules
from numpy.typing import NDArray

from sfumato.components.schedulers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Scheduler,
)
from sfumato.graph.errors import ConfigError

Floats = NDArray[np.float64]
CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
OWN = EulerDiscreteScheduler.from_config(CONFIG)
FLUX = FlowMatchEulerDiscreteScheduler(shift=3.0)
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
TABLE: Floats = np.sqrt(1 / np.cumprod(1 - BETAS) - 1)
FLOW: Floats = 3 * np.arange(1, 1001) / 1000 / (1 + 2 * np.arange(1, 1001) / 1000)


def between(table: Floats, times: Floats) -> Floats:
    return np.exp(np.interp(times, np.arange(1000), np.log(table)))


def beta(table: Floats, n: int) -> Floats:
    quantiles = scipy.stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6)
    return table[np.rint(quantiles * 999).astype(int)]


def karras(table: Floats, n: int) -> Floats:
    return np.linspace(float(table[-1]) ** (1 / 7), float(table[0]) ** (1 / 7), n) ** 7


def linear_quadratic(table: Floats, n: int) -> Floats:
    if n == 1:
        return table[-1:]
    half = n // 2
    bend = (half - 0.025 * n) / (half * (n - half) ** 2)
    gone = [
        0.025 * i / half if i < half else
        bend * i**2 + (0.025 / half - 2 * (half - 0.025 * n) / (n - half) ** 2) * i + bend * half**2
        for i in range(n)
    ]  # fmt: skip
    return table[-1] * (1 - np.array(gone))


ALIGNED = {"align_your_steps": "StableDiffusionSigmas", "align_your_steps_xl": "StableDiffusionXLSigmas"}


def aligned(curve: str) -> Callable[[Floats, int], Floats]:
    def of(table: Floats, n: int) -> Floats:
        known = np.log([*AysSchedules[ALIGNED[curve]][:-1], 0.0291672])
        levels = np.exp(np.interp(np.linspace(0, 1, n + 1)[:-1], np.linspace(0, 1, 11), known))
        position = np.log(levels / 0.0291672) / np.log(14.6146 / 0.0291672)
        return table[0] * (table[-1] / table[0]) ** position

    return of


OF_LEVELS: dict[str, Callable[[Floats, int], Floats]] = {
    "karras": karras,
    "exponential": lambda table, n: np.exp(np.linspace(np.log(table[-1]), np.log(table[0]), n)),
    "kl_optimal": lambda table, n: np.tan(np.linspace(np.arctan(table[-1]), np.arctan(table[0]), n)),
    "beta": beta,
    "simple": lambda table, n: np.array([table[-(1 + int(i * (1000 / n)))] for i in range(n)]),
    "ddim_uniform": lambda table, n: table[1 :: 1000 // n][:n][::-1],
    "linear_quadratic": linear_quadratic,
    "turbo": lambda table, n: table[[max(round(1000 * i / n - 1), 0) for i in range(n, 0, -1)]],
}
OF_TIME: dict[str, Callable[[Floats, int], Floats]] = {
    "normal": lambda table, n: between(table, np.linspace(999, 0, n)),
    "sgm_uniform": lambda table, n: between(table, np.linspace(999, 0, n + 1)[:-1]),
}
SAMPLERS = ("euler", "euler_a", "heun", "lms", "dpm2", "dpm2_a", "dpmpp_sde", "dpmpp_2m", "dpmpp_3m")
MORE_SAMPLERS = ("dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2s", "unipc", "deis")
FLOW_SAMPLERS = ("euler", "euler_a", "heun", "lcm", "dpmpp_2m", "unipc", "deis")


def levels(scheduler: Scheduler, n: int) -> Floats:
    """The level at the start of each whole step."""
    schedule = scheduler.steps(n)
    whole = schedule.places
    return np.array([s for i, s in enumerate(schedule.sigmas[:-1]) if i == 0 or whole[i] != whole[i - 1]])


@pytest.mark.parametrize("curve", [*OF_LEVELS, *OF_TIME])
@pytest.mark.parametrize("sampler", [*SAMPLERS, *MORE_SAMPLERS])
def test_a_curve_is_the_customary_one_whatever_the_spacing(sampler: str, curve: str) -> None:
    """Within 1e-4 of each level: the tables are float32."""
    for n in (1, 2, 7, 20):
        for spacing in ("leading", "linspace", "trailing"):
            own = EulerDiscreteScheduler.from_config({**CONFIG, "timestep_spacing": spacing})
            found = levels(Scheduler.coerce(f"{sampler}_{curve}", own), n)
            np.testing.assert_allclose(found, {**OF_LEVELS, **OF_TIME}[curve](TABLE, n), rtol=1e-4)


@pytest.mark.parametrize("curve", ALIGNED)
def test_aligned_steps_are_the_published_ones(curve: str) -> None:
    """Within 1.6 %: they are published rounded, as levels and as timesteps."""
    own = EulerDiscreteScheduler.from_config(CONFIG)
    for n in (1, 7, 10, 30):
        np.testing.assert_allclose(
            levels(Scheduler.coerce(f"euler_{curve}", own), n), aligned(curve)(TABLE, n), rtol=1.6e-2
        )
    assert len(levels(Scheduler.coerce(f"euler_{curve}", FLUX), 4)) == 4


@pytest.mark.parametrize("curve", OF_LEVELS)
@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_a_curve_of_flow_is_between_pure_noise_and_the_first_level(sampler: str, curve: str) -> None:
    found = levels(Scheduler.coerce(f"{sampler}_{curve}", FLUX), 10)
    np.testing.assert_allclose(found, OF_LEVELS[curve](FLOW, 10), rtol=1e-4)


def test_even_times_of_flow_shift_the_last_level_twice_as_published() -> None:
    np.testing.assert_allclose(levels(Scheduler.coerce("euler_normal", FLUX), 10), levels(FLUX, 10), rtol=1e-6)
    assert levels(Scheduler.coerce("euler_sgm_uniform", FLUX), 4)[0] == 1.0


@pytest.mark.parametrize("curve", [*OF_LEVELS, *OF_TIME])
def test_a_curve_of_any_number_of_steps_falls(curve: str) -> None:
    """ComfyUI leaves out steps of a beta curve at one timestep; here each step has its own."""
    for n in (1, 2, 3, 50, 100, 999, 1000):
        found = levels(Scheduler.coerce(f"euler_{curve}", OWN), n)
        assert len(found) == n
        assert all(a > b > 0 for a, b in pairwise(found))


def test_published_keys_of_curves_stay_as_published() -> None:
    """Between the visited timesteps, which "leading" starts below the noisiest."""
    published = Scheduler.coerce({"use_karras_sigmas": True}, OWN).steps(20).sigmas
    assert published[0] == pytest.approx(11.028, abs=1e-3)
    assert Scheduler.coerce("euler_karras", OWN).steps(20).sigmas[0] == pytest.approx(14.6147, abs=1e-3)


def test_a_curve_by_name_is_in_the_file_of_its_scheduler() -> None:
    made = Scheduler.coerce("heun_karras", OWN)
    config = made.to_config()
    assert (config["sigma_curve"], config["use_karras_sigmas"]) == ("karras", True)
    assert Scheduler.from_config(config) == made
    assert "sigma_curve" not in OWN.to_config()


def test_two_curves_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        EulerDiscreteScheduler(use_beta_sigmas=True, sigma_curve="normal")
    assert str(error.value) == (
        "EulerDiscreteScheduler takes one sigma curve, got use_beta_sigmas and sigma_curve='normal'. Set one."
    )


def test_timesteps_on_a_customary_curve_are_refused() -> None:
    for name in ("euler_normal", "dpmpp_2m_normal"):
        with pytest.raises(ConfigError, match="takes no timesteps with sigma_curve"):
            Scheduler.coerce(name, OWN).steps(2, timesteps=[500, 3])
    assert Scheduler.coerce("euler_normal", OWN).steps(2, sigmas=[3.0, 1.0, 0.0]).sigmas == (3.0, 1.0, 0.0)


def test_samplers_of_whole_timesteps_have_the_curves_that_are_spacings() -> None:
    assert Scheduler.coerce("ddim_normal", OWN) == DDIMScheduler.from_scheduler(OWN, timestep_spacing="linspace")
    assert Scheduler.coerce("ddim_simple", OWN).steps(4).timesteps == (999, 749, 499, 249)
    assert Scheduler.coerce("ddim_ddim_uniform", OWN).steps(4).timesteps == (751, 501, 251, 1)
