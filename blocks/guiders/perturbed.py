"""Guiders that lean away from what a perturbed model says: PAG, SLG and SEG. Which layers, the model knows."""

import math

from ...components.models.taps import Taps
from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Pass, Predict, ZeroToOne
from ...graph import Block, knob
from .files import Published
from .layers import (
    BlurConfig,
    Layers,
    LayersConfig,
    LayerSkipConfig,
    SmoothedEnergyGuidanceConfig,
    ask,
    blurring,
    settle,
    skipping,
)
from .none import NoGuidance, WithoutNegative
from .terms import Common, Guided, Scale, is_neutral, is_off, is_on, leaned, per_row, perturbing, rescaled

SCORES = LayerSkipConfig((), skip_attention=False, skip_attention_scores=True, skip_ff=False)
WHOLE = LayerSkipConfig(())


class PerturbedAttentionGuidance(Published, Block):
    """Lean away from a pass whose self-attention looks at nothing but itself (PAG, Ahn et al. 2024).

    guided + perturbed_guidance_scale * (positive - perturbed), in the steps from `perturbed_guidance_start` to
    `perturbed_guidance_stop`. Without layers, the model's usual ones are perturbed: the middle of a U-Net.
    """

    guidance_scale: Scale = knob(7.5)
    perturbed_guidance_scale: Scale = knob(2.8)
    perturbed_guidance_start: ZeroToOne = 0.01
    perturbed_guidance_stop: ZeroToOne = 0.2
    perturbed_guidance_layers: Layers = None
    perturbed_guidance_config: LayersConfig = None
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __post_init__(self) -> None:
        settle(self, "perturbed_guidance_layers", "perturbed_guidance_config", LayerSkipConfig)
        ask(self, self._taps.taps)

    @property
    def _taps(self) -> Taps:
        return skipping(self.perturbed_guidance_layers, self.perturbed_guidance_config, SCORES)

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        taps = Taps()
        if perturbing(step, self.perturbed_guidance_start, self.perturbed_guidance_stop):
            taps = self._taps
        scale = self.perturbed_guidance_scale
        return _guided(self, predict, latents, step, positive, negative, scale, taps)

    def simplified(self) -> Block | None:
        asks = self.perturbed_guidance_start < self.perturbed_guidance_stop
        return _simplified(self, self.perturbed_guidance_scale, asks)


class SkipLayerGuidance(Published, Block):
    """Lean away from a pass in which some layers are skipped (SLG; Hyung et al. 2024, published with SD 3.5).

    guided + skip_layer_guidance_scale * (positive - skipped), in the steps from `skip_layer_guidance_start` to
    `skip_layer_guidance_stop`. Without layers, the model's usual ones are skipped: the middle of a U-Net.
    """

    guidance_scale: Scale = knob(7.5)
    skip_layer_guidance_scale: Scale = knob(2.8)
    skip_layer_guidance_start: ZeroToOne = 0.01
    skip_layer_guidance_stop: ZeroToOne = 0.2
    skip_layer_guidance_layers: Layers = None
    skip_layer_config: LayersConfig = None
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __post_init__(self) -> None:
        settle(self, "skip_layer_guidance_layers", "skip_layer_config", LayerSkipConfig)
        ask(self, self._taps.taps)

    @property
    def _taps(self) -> Taps:
        return skipping(self.skip_layer_guidance_layers, self.skip_layer_config, WHOLE)

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        taps = Taps()
        if perturbing(step, self.skip_layer_guidance_start, self.skip_layer_guidance_stop):
            taps = self._taps
        scale = self.skip_layer_guidance_scale
        return _guided(self, predict, latents, step, positive, negative, scale, taps)

    def simplified(self) -> Block | None:
        asks = self.skip_layer_guidance_start < self.skip_layer_guidance_stop
        return _simplified(self, self.skip_layer_guidance_scale, asks)


class SmoothedEnergyGuidance(Published, Block):
    """Lean away from a pass whose attention is smoothed by blurring its queries (SEG, Hong 2024).

    guided + seg_guidance_scale * (positive - smoothed). `seg_blur_sigma` is in tokens; above `seg_blur_threshold_inf`
    it is infinite, and each token asks the mean query. Without layers, the model's usual ones: the middle of a U-Net.
    """

    guidance_scale: Scale = knob(7.5)
    seg_guidance_scale: Scale = knob(2.8)
    seg_blur_sigma: float = knob(9999999.0)
    seg_blur_threshold_inf: float = 9999.0
    seg_guidance_start: ZeroToOne = 0.0
    seg_guidance_stop: ZeroToOne = 1.0
    seg_guidance_layers: Layers = None
    seg_guidance_config: BlurConfig = None
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __post_init__(self) -> None:
        settle(self, "seg_guidance_layers", "seg_guidance_config", SmoothedEnergyGuidanceConfig)
        ask(self, blurring(self.seg_guidance_layers, self.seg_guidance_config, math.inf).taps)

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        sigma = math.inf if self.seg_blur_sigma > self.seg_blur_threshold_inf else self.seg_blur_sigma
        taps = Taps()
        if sigma > 0 and perturbing(step, self.seg_guidance_start, self.seg_guidance_stop):
            taps = blurring(self.seg_guidance_layers, self.seg_guidance_config, sigma)
        return _guided(self, predict, latents, step, positive, negative, self.seg_guidance_scale, taps)

    def simplified(self) -> Block | None:
        asks = self.seg_guidance_start < self.seg_guidance_stop and self.seg_blur_sigma > 0
        return _simplified(self, self.seg_guidance_scale, asks)


def _simplified(guider: Common, scale: Scale, perturbs: bool) -> Block | None:
    """What does the same where the guider does not lean away from the negative prompt."""
    assert isinstance(guider, Block)
    if not is_off(guider):
        return None
    perturbs = guider.enabled and perturbs and not is_neutral(scale, original=True)
    return WithoutNegative(guider=guider) if perturbs else NoGuidance()


def _guided(
    guider: Common,
    predict: Predict,
    latents: Latents,
    step: Step,
    positive: Conditioning,
    negative: Conditioning,
    scale: Scale,
    taps: Taps,
) -> Guided:
    """Both terms, each with a pass of its own where it is on: one question of one to three passes.

    The perturbed pass has the positive prompt, whatever the other term does. Without that term this is the formula
    around the positive prediction, where a guidance scale of 1 leads (decision 0008).
    """
    leans = is_on(guider, step)
    perturbs = guider.enabled and bool(taps) and not is_neutral(scale, original=True)
    passes = [Pass(latents, step, negative, "negative")] if leans else []
    passes.append(Pass(latents, step, positive))
    if perturbs:
        passes.append(Pass(latents, step, positive, "perturbed", taps=taps))
    answers = list(predict(passes))
    towards = guided = answers[1 if leans else 0]
    if leans:
        guided = leaned(towards, answers[0], guider.guidance_scale, guider.use_original_formulation)
    if perturbs:
        guided = guided + per_row(scale, towards) * (towards - answers[-1])
    return Guided(rescaled(guided, towards, guider.guidance_rescale) if leans or perturbs else guided)
