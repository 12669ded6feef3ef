"""AutoGuidance: guiding a model with a weaker version of itself (Karras et al. 2024)."""

from ...components.schedulers.schedule import Step
from ...components.taps.tap import Taps
from ...components.types import Conditioning, Latents, Pass, Predict, ZeroToOne
from .guider import Guider
from .layers import Layers, LayersConfig, LayerSkipConfig, normalize_layers, require_layers, skip_taps
from .predictions import Guided, predict_positive


class AutoGuidance(Guider):
    """Move away from the prediction of a weaker model for the same prompt: weak + scale (positive - weak).

    The weaker model is this one with some layers changed: with `dropout`, the fraction of their output that is lost,
    or skipped where that is None. auto_guidance_layers: which layers; None is the model's usual ones, the middle of a
    U-Net. auto_guidance_config: the same in its published form, in place of both. There is no negative prompt.
    """

    auto_guidance_layers: Layers = None
    auto_guidance_config: LayersConfig = None
    dropout: ZeroToOne | None = None

    def __post_init__(self) -> None:
        normalize_layers(self, "auto_guidance_layers", "auto_guidance_config", LayerSkipConfig)
        require_layers(self, self._taps.taps)

    @property
    def _taps(self) -> Taps:
        usual = LayerSkipConfig((), dropout=1.0 if self.dropout is None else self.dropout)
        return skip_taps(self.auto_guidance_layers, self.auto_guidance_config, usual)

    def __call__(self, predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
        if not self.is_on(step):
            return predict_positive(predict, latents, step, positive)
        passes = Pass(latents, step, positive, "perturbed", taps=self._taps), Pass(latents, step, positive)
        weak, pos = predict(passes)
        return self.rescaled(self.guided(pos, weak), pos)
