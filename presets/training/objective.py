"""The objective of a denoiser's training: which blocks of a recipe draw, weight and compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...blocks.train.losses import MeanAbsoluteError, MeanSquaredError, PseudoHuber, ShrinkLossMask
from ...blocks.train.noise import OffsetNoise, PerturbNoise
from ...blocks.train.predict import CompareClean
from ...blocks.train.timesteps import (
    DrawCosMap,
    DrawCubic,
    DrawLogitNormal,
    DrawMode,
    DrawShifted,
    DrawShiftedBySize,
    DrawTimesteps,
    DrawUniform,
)
from ...blocks.train.weights import (
    WeightByCosMap,
    WeightByMinSNR,
    WeightBySigma,
    WeightBySNR,
    WeightDebiased,
    WeightEqually,
)  # fmt: skip
from ...graph import Block, ConfigError, Graph
from ...registry import did_you_mean, printable

Choice = str | Mapping[str, Any] | Block  # Any: fields of the block, which checks them
"""The name of a block, or a table with the `name` and the block's fields, or a block."""

TIMESTEPS: Mapping[str, type[Block]] = {
    "uniform": DrawTimesteps, "uniform_density": DrawUniform, "logit_normal": DrawLogitNormal, "mode": DrawMode,
    "cosmap": DrawCosMap, "shifted": DrawShifted, "shifted_by_size": DrawShiftedBySize, "cubic": DrawCubic,
}  # fmt: skip
"""Blocks that draw timesteps. "uniform" draws whole numbers, "uniform_density" fractions, as scripts for flow do."""
WEIGHTS: Mapping[str, type[Block]] = {
    "none": WeightEqually, "min_snr": WeightByMinSNR, "debiased": WeightDebiased, "snr": WeightBySNR,
    "sigma_sqrt": WeightBySigma, "cosmap": WeightByCosMap,
}  # fmt: skip
"""Blocks that weight the loss of each row."""
LOSSES: Mapping[str, type[Block]] = {"mse": MeanSquaredError, "mae": MeanAbsoluteError, "huber": PseudoHuber}
"""Blocks that compare predictions with their targets."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Choices of a recipe. Each changes a block; a block of your own can be passed in place of a name.

    Raises:
        ConfigError: an unknown name, or fields that the block does not have.
    """

    timesteps: Choice | None = None
    """How timesteps are drawn: `TIMESTEPS`, such as `{"name": "logit_normal", "std": 1.5}`. None is the choice of the
    method: "uniform", and "cubic" for a T2I-Adapter."""
    weight: Choice = "none"
    """How rows are weighted by their timesteps: `WEIGHTS`, such as `{"name": "min_snr", "snr_gamma": 5.0}`."""
    loss: Choice = "mse"
    """How predictions are compared: `LOSSES`."""
    compare: Literal["prediction", "clean"] = "prediction"
    """What is compared: predictions, or the clean latents that they point to."""
    noise_offset: float = 0.0
    """See `OffsetNoise`."""
    input_perturbation: float = 0.0
    """See `PerturbNoise`."""
    masked: bool = False
    """Whether the loss counts where the data's `mask` is white alone."""
    unmasked_weight: float = 0.0
    """How much it counts where the mask is black."""

    def changed(self, graph: Graph) -> Graph:
        """The recipe with the blocks of these choices."""
        if self.timesteps is not None:
            graph = graph.replace("timesteps", chosen("timesteps", self.timesteps, TIMESTEPS))
        graph = graph.replace("weight", chosen("weight", self.weight, WEIGHTS))
        graph = graph.replace("loss", chosen("loss", self.loss, LOSSES))
        if self.noise_offset:
            graph = graph.insert("offset", OffsetNoise(noise_offset=self.noise_offset), after="noise")
        if self.input_perturbation:
            perturb = PerturbNoise(input_perturbation=self.input_perturbation)
            graph = graph.insert("perturb", perturb, after="offset" if self.noise_offset else "noise")
        if self.compare == "clean":
            graph = graph.remove("target").insert("clean", CompareClean(), before="weight")
        if self.masked:
            mask = ShrinkLossMask(unmasked_weight=self.unmasked_weight)
            graph = graph.insert("loss_mask", mask, before="loss")
        return graph


def chosen(setting: str, choice: Choice, table: Mapping[str, type[Block]]) -> Block:
    """The block of a choice. ConfigError for an unknown name, and for fields that the block does not have."""
    if isinstance(choice, Block):
        return choice
    fields: dict[str, Any] = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = fields.pop("name", None)
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{setting}: {printable(repr(name))} is no choice. {did_you_mean(str(name), table)}")
    try:
        return table[name].from_config(fields)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from None
