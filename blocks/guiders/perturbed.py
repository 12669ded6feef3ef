"""Guiders that move away from the prediction of a perturbed model: PAG, SLG and SEG."""

import math
from abc import abstractmethod
from typing import Annotated, NamedTuple

from ...components.schedulers.schedule import Step
from ...components.taps.tap import Taps
from ...components.types import Conditioning, Latents, Pass, Predict, ZeroToOne
from ...graph import Above, Block, knob
from .formulas import Scale, is_neutral, per_row
from .guider import Guider
from .intervals import within_perturbed
from .layers import (
    BlurConfig,
    Layers,
    LayersConfig,
    LayerSkipConfig,
    SmoothedEnergyGuidanceConfig,
    blur_taps,
    normalize_layers,
    require_layers,
    skip_taps,
)
from .none import NoGuidance, WithoutNegative
from .predictions import Guided

SCORES = LayerSkipConfig((), skip_attention=False, skip_attention_scores=True, skip_ff=False)
WHOLE = LayerSkipConfig(())


class Perturbation(NamedTuple):
    """The scale of the perturbed term, and the interval of its pass."""

    scale: Scale
    start: float
    stop: float


class PerturbedGuider(Guider, abstract=True):
    """Classifier-free guidance plus a second term: scale (positive - perturbed).

    Each term makes a pass of its own where it is on, so a step has one to three passes. The perturbed pass has the
    positive prompt. With a guidance scale of 1 the second term is added to the positive prediction (decision 0008).
    """

    @property
    @abstractmethod
    def perturbation(self) -> Perturbation:
        """The second term."""
        ...

    @property
    @abstractmethod
    def taps(self) -> Taps:
        """The changes of layers that make the perturbed model; none where the settings change nothing."""
        ...

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        scale, start, stop = self.perturbation
        on = self.enabled and not is_neutral(scale, original=True) and within_perturbed(step, start, stop)
        taps, guides = self.taps if on else Taps(), self.is_on(step)
        passes = [Pass(latents, step, negative, "negative")] if guides else []
        passes.append(Pass(latents, step, positive))
        if taps:
            passes.append(Pass(latents, step, positive, "perturbed", taps=taps))
        answers = list(predict(passes))
        pos = guided = answers[1 if guides else 0]
        if guides:
            guided = self.guided(pos, answers[0])
        if taps:
            guided = guided + per_row(scale, pos) * (pos - answers[-1])
        return self.rescaled(guided, pos) if guides or taps else Guided(guided)

    def simplified(self) -> Block | None:
        """Without classifier-free guidance the perturbed term may stay, which reads no negative prompt."""
        if not self.is_off:
            return None
        scale, start, stop = self.perturbation
        perturbs = self.enabled and start < stop and not is_neutral(scale, original=True) and bool(self.taps)
        return WithoutNegative(guider=self) if perturbs else NoGuidance()


class PerturbedAttentionGuidance(PerturbedGuider):
    """Move away from a pass in which each token attends to itself alone (PAG, Ahn et al. 2024, equation 16).

    Guided prediction + perturbed_guidance_scale (positive - perturbed), in the steps from `perturbed_guidance_start` to
    `perturbed_guidance_stop`, fractions of the whole steps. perturbed_guidance_layers: which layers; None is the
    model's usual ones, the middle of a U-Net. perturbed_guidance_config: the same in its published form.
    """

    perturbed_guidance_scale: Scale = knob(2.8)
    perturbed_guidance_start: ZeroToOne = 0.01
    perturbed_guidance_stop: Annotated[ZeroToOne, Above("perturbed_guidance_start", or_equal=True)] = 0.2
    perturbed_guidance_layers: Layers = None
    perturbed_guidance_config: LayersConfig = None

    def __post_init__(self) -> None:
        normalize_layers(self, "perturbed_guidance_layers", "perturbed_guidance_config", LayerSkipConfig)
        require_layers(self, self.taps.taps)

    @property
    def perturbation(self) -> Perturbation:
        """The term of the pass with perturbed attention."""
        return Perturbation(self.perturbed_guidance_scale, self.perturbed_guidance_start, self.perturbed_guidance_stop)

    @property
    def taps(self) -> Taps:
        """Each token of these layers attends to itself alone."""
        return skip_taps(self.perturbed_guidance_layers, self.perturbed_guidance_config, SCORES)


class SkipLayerGuidance(PerturbedGuider):
    """Move away from a pass in which some layers are skipped (SLG; Hyung et al. 2024, published with SD 3.5).

    Guided prediction + skip_layer_guidance_scale (positive - skipped), in the steps from `skip_layer_guidance_start` to
    `skip_layer_guidance_stop`, fractions of the whole steps. skip_layer_guidance_layers: which layers; None is the
    model's usual ones, the middle of a U-Net. skip_layer_config: the same in its published form.
    """

    skip_layer_guidance_scale: Scale = knob(2.8)
    skip_layer_guidance_start: ZeroToOne = 0.01
    skip_layer_guidance_stop: Annotated[ZeroToOne, Above("skip_layer_guidance_start", or_equal=True)] = 0.2
    skip_layer_guidance_layers: Layers = None
    skip_layer_config: LayersConfig = None

    def __post_init__(self) -> None:
        normalize_layers(self, "skip_layer_guidance_layers", "skip_layer_config", LayerSkipConfig)
        require_layers(self, self.taps.taps)

    @property
    def perturbation(self) -> Perturbation:
        """The term of the pass with skipped layers."""
        return Perturbation(
            self.skip_layer_guidance_scale, self.skip_layer_guidance_start, self.skip_layer_guidance_stop
        )

    @property
    def taps(self) -> Taps:
        """These layers are skipped."""
        return skip_taps(self.skip_layer_guidance_layers, self.skip_layer_config, WHOLE)


class SmoothedEnergyGuidance(PerturbedGuider):
    """Move away from a pass whose attention is smoothed by blurring its queries (SEG, Hong 2024, algorithm 1).

    Guided prediction + seg_guidance_scale (positive - smoothed), in the steps from `seg_guidance_start` to
    `seg_guidance_stop`, fractions of the whole steps. seg_blur_sigma: the standard deviation of the blur in tokens;
    above `seg_blur_threshold_inf` it is infinite, and all tokens share the mean query; 0 is no blur.
    seg_guidance_layers: which layers; None is the model's usual ones, the middle of a U-Net. seg_guidance_config: the
    same in its published form.
    """

    seg_guidance_scale: Scale = knob(2.8)
    seg_blur_sigma: float = knob(9999999.0)
    seg_blur_threshold_inf: float = 9999.0
    seg_guidance_start: ZeroToOne = 0.0
    seg_guidance_stop: Annotated[ZeroToOne, Above("seg_guidance_start", or_equal=True)] = 1.0
    seg_guidance_layers: Layers = None
    seg_guidance_config: BlurConfig = None

    def __post_init__(self) -> None:
        normalize_layers(self, "seg_guidance_layers", "seg_guidance_config", SmoothedEnergyGuidanceConfig)
        require_layers(self, self._blurred(math.inf).taps)

    @property
    def perturbation(self) -> Perturbation:
        """The term of the pass with smoothed attention."""
        return Perturbation(self.seg_guidance_scale, self.seg_guidance_start, self.seg_guidance_stop)

    @property
    def taps(self) -> Taps:
        """The queries of these layers are blurred."""
        sigma = math.inf if self.seg_blur_sigma > self.seg_blur_threshold_inf else self.seg_blur_sigma
        return self._blurred(sigma) if sigma > 0 else Taps()

    def _blurred(self, sigma: float) -> Taps:
        return blur_taps(self.seg_guidance_layers, self.seg_guidance_config, sigma)
