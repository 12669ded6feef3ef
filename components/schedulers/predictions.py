"""Predictions of a model: the clean sample and the noise that follow from each kind."""

from math import ceil, floor
from typing import Literal

from torch import Tensor

from .keys import ClipKeys, LearnedVarianceKeys, ThresholdKeys
from .schedule import Level

Prediction = Literal["epsilon", "sample", "v_prediction"]
AnyPrediction = Literal["epsilon", "sample", "original_sample", "v_prediction"]
FlowPrediction = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
EveryPrediction = Literal["epsilon", "sample", "original_sample", "v_prediction", "flow_prediction"]


def clean(kind: EveryPrediction, sample: Tensor, prediction: Tensor, level: Level) -> Tensor:
    """x0 from the prediction of a model, where sample = alpha x0 + sigma epsilon.

    v is that of Salimans and Ho 2022, appendix D, at the sample scaled to unit variance (r = 1 where it is already).
    """
    alpha, sigma = level
    match kind:
        case "epsilon":
            return (sample - sigma * prediction) / alpha
        case "sample" | "original_sample":
            return prediction
        case "v_prediction":
            r = (alpha**2 + sigma**2) ** 0.5
            return (alpha / r**2) * sample - (sigma / r) * prediction
        case "flow_prediction":  # Lipman et al. 2023: the model predicts noise - clean, and alpha + sigma = 1
            return sample - sigma * prediction


def noise_in(kind: EveryPrediction, sample: Tensor, prediction: Tensor, level: Level) -> Tensor:
    """epsilon from the prediction of a model; the other half of `clean`."""
    alpha, sigma = level
    match kind:
        case "epsilon":
            return prediction
        case "sample" | "original_sample":
            return (sample - alpha * prediction) / sigma
        case "v_prediction":
            r = (alpha**2 + sigma**2) ** 0.5
            return (sigma / r**2) * sample + (alpha / r) * prediction
        case "flow_prediction":
            return sample + alpha * prediction


def clean_estimate(
    scheduler: object, kind: EveryPrediction, sample: Tensor, prediction: Tensor, level: Level
) -> Tensor:
    """x0 in float32, without a learned variance, thresholded or clipped: by the keys that the scheduler has."""
    prediction = without_variance(scheduler, sample, prediction)
    return bounded(scheduler, clean(kind, sample.float(), prediction.float(), level))


def without_variance(scheduler: object, sample: Tensor, prediction: Tensor) -> Tensor:
    """The prediction without the channels of a learned variance, where the scheduler has `LearnedVarianceKeys`."""
    if isinstance(scheduler, LearnedVarianceKeys) and scheduler.variance_type:
        return prediction[:, : sample.shape[1]]
    return prediction


def bounded(scheduler: object, x0: Tensor) -> Tensor:
    """The clean estimate, thresholded or clipped where the scheduler has those keys and they are set."""
    if isinstance(scheduler, ThresholdKeys) and scheduler.thresholding:
        return dynamic_threshold(x0, scheduler.dynamic_thresholding_ratio, scheduler.sample_max_value)
    if isinstance(scheduler, ClipKeys) and scheduler.clip_sample:
        return x0.clamp(-scheduler.clip_sample_range, scheduler.clip_sample_range)
    return x0


def dynamic_threshold(x0: Tensor, ratio: float, max_value: float) -> Tensor:
    """Saharia et al. 2022 (Imagen), section 2.3: clip each row at its `ratio` quantile s of |x0|, and divide by s.

    x0: (batch, ...). s lies in 1..max_value. Sorting gives the quantile without torch.quantile's limit of 16 million
    values and without its reading back to the host.
    """
    size = x0[0].numel()
    ordered = x0.abs().reshape(-1, size).sort(dim=1).values
    place = ratio * (size - 1)
    s = ordered[:, floor(place)].lerp(ordered[:, ceil(place)], place - floor(place))
    s = s.clamp(min=1).clamp(max=max_value).reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-s, s) / s
