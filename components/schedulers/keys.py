"""Published config keys that several schedulers share: fields without behaviour, and rules for their combinations.

A scheduler lists the groups of keys that its published class has. Functions read the groups: a scheduler with
`ThresholdKeys` has its clean estimate thresholded, one without does not.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from ...graph.errors import ConfigError
from ...graph.limits import AtMost
from .config import INFINITE
from .curves import Curve
from .spacing import Spacing

TrainingSteps = Annotated[int, Ge(1), AtMost("training_steps")]
"""The number of timesteps that the model was trained with."""
Beta = Annotated[float, Ge(0), Le(1)]
"""A share of variance."""
Positive = Annotated[float, Gt(0)]
"""A number above 0, such as a noise level whose logarithm is taken."""
MaybeInfinite = Annotated[float, INFINITE]
"""A number, or infinity for no limit."""

STEP_ARGUMENT = {"published": False}
"""Metadata of a field that the reference takes as an argument of `step`: written to a config unless it is default."""
OWN_KEY = {"published": False}
"""Metadata of a field that the published class lacks: written to a config unless it is default."""

SigmaCurve = Literal[
    "karras",
    "exponential",
    "beta",
    "normal",
    "simple",
    "sgm_uniform",
    "ddim_uniform",
    "kl_optimal",
    "linear_quadratic",
    "turbo",
    "align_your_steps",
    "align_your_steps_xl",
]

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
AnyBetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"]


@dataclass(frozen=True, kw_only=True)
class BetaKeys:
    """The noise of the model's training: betas, the share of variance that each timestep replaces by noise."""

    num_train_timesteps: TrainingSteps = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: AnyBetaSchedule = "linear"
    trained_betas: tuple[Beta, ...] | None = None
    """Betas themselves, one for each training timestep, instead of a `beta_schedule`."""


@dataclass(frozen=True, kw_only=True)
class ZeroSNRKeys:
    """Whether the training noise ends without signal."""

    rescale_betas_zero_snr: bool = False
    """Lin et al. 2023, algorithm 1."""


@dataclass(frozen=True, kw_only=True)
class UnpublishedZeroSNRKeys(ZeroSNRKeys):
    """The same for a scheduler whose published class lacks the key, so that it serves such a model too."""

    rescale_betas_zero_snr: bool = field(default=False, metadata=OWN_KEY)


@dataclass(frozen=True, kw_only=True)
class SpacingKeys:
    """The training timesteps that a run visits: Lin et al. 2023, table 2."""

    timestep_spacing: Spacing = "linspace"
    steps_offset: Annotated[int, Ge(0), AtMost("training_steps")] = 0
    """Added to the timesteps of "leading" spacing."""


@dataclass(frozen=True, kw_only=True)
class CurveKeys:
    """Noise levels on a curve instead of at evenly spaced timesteps; at most one of these is set."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False


@dataclass(frozen=True, kw_only=True)
class CustomaryCurveKeys:
    """A curve as customary names mean it ("euler_karras"): over the whole range of training, whatever the spacing."""

    sigma_curve: SigmaCurve | None = field(default=None, metadata=OWN_KEY)
    """Levels of `steps(n)`, in place of those of the spacing and of the published curves."""


@dataclass(frozen=True, kw_only=True)
class ThresholdKeys:
    """Dynamic thresholding of the clean estimate, each row by itself: Saharia et al. 2022, section 2.3."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    """The quantile, 0 to 1."""
    sample_max_value: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ClipKeys:
    """Clip the clean estimate to -range..range. Thresholding, where it is set, replaces it."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FlowKeys:
    """Levels of flow matching for a solver of diffusion: sample = (1 - sigma) clean + sigma noise."""

    use_flow_sigmas: bool = False
    flow_shift: float = 1.0
    """Moves the levels towards noise: Esser et al. 2024, equation 23."""


@dataclass(frozen=True, kw_only=True)
class DynamicShiftKeys:
    """A `flow_shift` that depends on the image's size: Esser et al. 2024, as fitted for Flux."""

    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential"] = "exponential"


@dataclass(frozen=True, kw_only=True)
class LearnedVarianceKeys:
    """A model that predicts a variance too, in channels behind the prediction. The solver does not use it."""

    variance_type: Literal["learned", "learned_range"] | None = None


@dataclass(frozen=True, kw_only=True)
class ChurnKeys:
    """Noise added before a step: Karras et al. 2022, algorithm 2, lines 4 to 6."""

    s_churn: float = field(default=0.0, metadata=STEP_ARGUMENT)
    """The amount of noise that is added over the whole run (table 5); 0 is deterministic."""
    s_tmin: float = field(default=0.0, metadata=STEP_ARGUMENT)
    s_tmax: MaybeInfinite = field(default=inf, metadata=STEP_ARGUMENT)
    """Noise is added only where s_tmin <= sigma <= s_tmax."""
    s_noise: float = field(default=1.0, metadata=STEP_ARGUMENT)
    """The standard deviation of that noise."""


def churn(keys: ChurnKeys, sigma: float, calls: int) -> float:
    """gamma, the share that churn adds to sigma: Karras et al. 2022, algorithm 2, line 5. calls: steps of the run."""
    return min(keys.s_churn / calls, 2**0.5 - 1) if keys.s_tmin <= sigma <= keys.s_tmax else 0.0


# -- choices ---------------------------------------------------------------------------------------------------------


def curves_set(keys: CurveKeys) -> dict[str, Curve]:
    """Key -> curve, for each curve that is set."""
    named: dict[str, Curve] = {
        "use_karras_sigmas": "karras",
        "use_exponential_sigmas": "exponential",
        "use_beta_sigmas": "beta",
    }
    return {key: kind for key, kind in named.items() if getattr(keys, key)}


def chosen_curve(keys: CurveKeys) -> Curve | None:
    """The curve that is set, if any."""
    return next(iter(curves_set(keys).values()), None)


# -- rules -----------------------------------------------------------------------------------------------------------


def check_betas(scheduler: object) -> None:
    """`trained_betas` are one for each training timestep."""
    if isinstance(scheduler, BetaKeys) and scheduler.trained_betas is not None:
        count, expected = len(scheduler.trained_betas), scheduler.num_train_timesteps
        if count != expected:
            raise ConfigError(
                f"{type(scheduler).__name__} has {count} trained_betas for {expected} training timesteps. "
                "Pass one beta for each of num_train_timesteps."
            )


def check_curve(scheduler: object) -> None:
    """At most one curve is set; the customary and the published key of one curve may be set both."""
    if not isinstance(scheduler, CurveKeys):
        return
    keys = list(curves_set(scheduler))
    customary = scheduler.sigma_curve if isinstance(scheduler, CustomaryCurveKeys) else None
    if customary and keys and keys != [f"use_{customary}_sigmas"]:
        keys = [*keys, f"sigma_curve={customary!r}"]
    if len(keys) > 1:
        raise ConfigError(f"{type(scheduler).__name__} takes one sigma curve, got {' and '.join(keys)}. Set one.")


def check_flow(scheduler: object) -> None:
    """A rule: the kind of prediction fits the kind of levels."""
    if not isinstance(scheduler, FlowKeys):
        return
    name, predicts = type(scheduler).__name__, getattr(scheduler, "prediction_type", None)
    if predicts == "flow_prediction" and not scheduler.use_flow_sigmas:
        raise ConfigError(f"{name} needs use_flow_sigmas=True for prediction_type='flow_prediction'.")
    if predicts == "v_prediction" and scheduler.use_flow_sigmas:
        raise ConfigError(
            f"{name} takes no v_prediction with use_flow_sigmas: v belongs to levels that keep variance. Set "
            "prediction_type='flow_prediction' for a model of flow matching."
        )


RULES = (check_betas, check_curve, check_flow)
"""Checked for each scheduler that has the keys."""
