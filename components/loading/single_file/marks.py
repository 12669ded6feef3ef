"""The marks of a single file: tensors that are no weights, and the `modelspec` of its header."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ....graph.errors import LoadError
from ...quantization.gguf.reader import GGUFFile
from ...storage.tensors import Shape

Config = dict[str, Any]  # the content of a config.json

_MARKS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
_UNREAD = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "logvar", "lvlb_weights", "scale_factor", "denoiser.sigmas",
    "sqrt_", "log_one_minus_", "posterior_", "model_ema.", "loss.",
)  # fmt: skip
"""Beginnings of the names of tensors that a training run leaves in a file and that no model reads."""

_MOST = 64
"""The most numbers that are read from a mark."""
_PLAYGROUND: Config = {
    "_class_name": "EDMDPMSolverMultistepScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
    "rho": 7.0, "num_train_timesteps": 1000, "prediction_type": "epsilon", "solver_order": 2,
    "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False,
    "final_sigmas_type": "zero",
}  # fmt: skip
"""The published scheduler of Playground 2.5 (Li et al. 2024), which was trained by EDM (Karras et al. 2022)."""
_COSXL: Config = {
    "_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0,
    "sigma_schedule": "exponential", "num_train_timesteps": 1000, "prediction_type": "v_prediction",
}  # fmt: skip
"""The scheduler of Stability's CosXL: EDM whose data have unit variance, which predicts velocity."""


@dataclass(frozen=True)
class Marks:
    """The marks of a file, and the entries of its header."""

    velocity: bool = False
    """The denoiser predicts velocity: `v_pred`, or the header."""
    zero_snr: bool = False
    """Training reached zero signal at the last timestep: `ztsnr` (Lin et al. 2023)."""
    latent_statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Means and deviations of the latents' channels (`edm_mean`, `edm_std`): Playground 2.5, trained by EDM."""
    sigma_range: tuple[float, float] | None = None
    """The smallest and largest noise level (`edm_vpred.sigma_min` and `sigma_max`): CosXL, trained by EDM."""
    header: Mapping[str, str] | None = None
    """The text entries of the header."""

    @property
    def architecture(self) -> str:
        """The model's name in the header; "" without one."""
        header = self.header or {}
        return header.get("modelspec.architecture") or header.get("general.architecture") or ""

    @property
    def states_prediction(self) -> bool:
        """Whether the header states the kind of prediction."""
        return bool((self.header or {}).get("modelspec.prediction_type"))

    @property
    def side(self) -> int | None:
        """The side of the square pictures it was trained on, in pixels, by the header; None where that has none."""
        width, _, height = (self.header or {}).get("modelspec.resolution", "").partition("x")
        return int(width) if width == height and width.isascii() and width.isdecimal() and len(width) < 5 else None

    def scheduler(self, config: Mapping[str, Any]) -> Config:
        """The family's scheduler, changed as the marks require."""
        if self.latent_statistics is not None:
            return dict(_PLAYGROUND)
        if self.sigma_range is not None:
            low, high = self.sigma_range
            return {**_COSXL, "sigma_min": low, "sigma_max": high}
        changed = dict(config)
        if self.velocity:
            changed["prediction_type"] = "v_prediction"
        if self.zero_snr:
            # Sampling starts at the last timestep, the one without signal: Lin et al. 2023, sections 3.1 and 3.3.
            changed |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
            if changed["_class_name"] == "PNDMScheduler":  # which cannot start without signal
                changed["_class_name"] = "DDIMScheduler"
        return changed

    def autoencoder(self, config: Mapping[str, Any]) -> Config:
        """The config of the family's autoencoder, changed as the marks require."""
        if self.latent_statistics is None:
            return dict(config)
        means, deviations = self.latent_statistics
        return {**config, "scaling_factor": 0.5, "latents_mean": list(means), "latents_std": list(deviations)}


def read_marks(
    file: Path, shapes: Mapping[str, Shape], read: Callable[[str], Tensor], header: Mapping[str, str]
) -> Marks:
    """The marks of a file.

    Raises:
        LoadError: marks of EDM that are incomplete or have no numbers.
    """
    means, deviations = _numbers("edm_mean", shapes, read, file), _numbers("edm_std", shapes, read, file)
    high = _numbers("edm_vpred.sigma_max", shapes, read, file)
    low = _numbers("edm_vpred.sigma_min", shapes, read, file)
    if len(means) != len(deviations):
        raise LoadError(f"{file}: has {len(means)} numbers in edm_mean and {len(deviations)} in edm_std. Playground "
                        "2.5 has one of each for every channel of the latents.")  # fmt: skip
    stated = header.get("modelspec.prediction_type", "").lower()
    named_v = header.get("modelspec.architecture", "").endswith("-v")  # stable-diffusion-v2-768-v
    velocity = "v_pred" in shapes or "ztsnr" in shapes or stated.startswith("v") or (named_v and not stated)
    return Marks(
        velocity=velocity,
        zero_snr="ztsnr" in shapes,
        latent_statistics=(means, deviations) if means else None,
        sigma_range=((low or (0.002,))[0], high[0]) if high else None,
        header=header,
    )


def loose_names(shapes: Mapping[str, Shape], prefixes: tuple[str, ...]) -> list[str]:
    """The tensors of a file that belong to no model, and that are neither marks nor left from training."""
    known = (*prefixes, *_UNREAD)
    return [name for name in shapes if not name.startswith(known) and name not in _MARKS]


def read_header(file: Path) -> dict[str, str]:
    """The text entries of a file's header; {} where the format has none. LoadError for a damaged file."""
    if file.suffix == ".gguf":
        return {name: value for name, value in GGUFFile(file).metadata.items() if isinstance(value, str)}
    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, framework="pt") as reader:
            return {str(name): str(value) for name, value in (reader.metadata() or {}).items()}
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{file} is damaged or not a safetensors file: {error}. Download it again.") from error


def _numbers(name: str, shapes: Mapping[str, Shape], read: Callable[[str], Tensor], file: Path) -> tuple[float, ...]:
    """The numbers of a mark; () without it."""
    if name not in shapes:
        return ()
    if not 0 < (count := prod(shapes[name])) <= _MOST:
        raise LoadError(f"{file}: {name} has {count} numbers, and needs one for each channel of the latents, or one.")
    numbers = tuple(float(number) for number in read(name).float().flatten().tolist())
    return tuple(round(number, 6) for number in numbers)
