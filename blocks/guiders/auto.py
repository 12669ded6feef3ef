"""AutoGuidance: guiding a model with a bad version of itself (Karras et al. 2024)."""

from ...components.models.taps import Taps
from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Pass, Predict, ZeroToOne
from ...graph import Block, knob
from .files import Published
from .layers import Layers, LayersConfig, LayerSkipConfig, ask, settle, skipping
from .terms import Guided, Scale, ask_one, is_on, leaned, rescaled


class AutoGuidance(Published, Block):
    """Lean away from what a weaker model says of the same prompt: weak + scale * (positive - weak).

    The weaker model is this one with `dropout` on some layers; none given are its usual ones (the middle of a U-Net),
    and without `dropout` they are skipped. There is no negative prompt in it, and none is encoded.
    """

    guidance_scale: Scale = knob(7.5)
    auto_guidance_layers: Layers = None
    auto_guidance_config: LayersConfig = None
    dropout: ZeroToOne | None = None
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __post_init__(self) -> None:
        settle(self, "auto_guidance_layers", "auto_guidance_config", LayerSkipConfig)
        ask(self, self._taps.taps)

    @property
    def _taps(self) -> Taps:
        usual = LayerSkipConfig((), dropout=1.0 if self.dropout is None else self.dropout)
        return skipping(self.auto_guidance_layers, self.auto_guidance_config, usual)

    def __call__(self, predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
        if not is_on(self, step):
            return ask_one(predict, latents, step, positive)
        asked = Pass(latents, step, positive, "perturbed", taps=self._taps), Pass(latents, step, positive)
        weak, towards = predict(asked)
        guided = leaned(towards, weak, self.guidance_scale, self.use_original_formulation)
        return Guided(rescaled(guided, towards, self.guidance_rescale))
