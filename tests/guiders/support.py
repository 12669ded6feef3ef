"""What the tests of guiders share: a denoiser that answers each role, and guiders driven through a schedule."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sfumato import Block
from sfumato.components.schedulers.schedule import Schedule
from sfumato.components.types import Conditioning, Pass

SHAPE = (2, 4, 8, 8)
WHOLE = 10
PLAIN = Schedule(sigmas=tuple(range(WHOLE, -1, -1)), timesteps=tuple(range(WHOLE, 0, -1)))
TWO_TURNS = Schedule(
    sigmas=tuple(range(19, -1, -1)), timesteps=tuple(range(19, 0, -1)), places=tuple(k // 2 for k in range(19))
)
"""Ten steps of a solver of second order, whose last step has one turn: as Heun's."""
ROLES = ("positive", "negative", "perturbed")

ALL = (
    "AdaptiveProjectedGuidance", "AdaptiveProjectedMixGuidance", "AutoGuidance", "ClassifierFreeGuidance",
    "ClassifierFreeZeroStarGuidance", "FrequencyDecoupledGuidance", "MagnitudeAwareGuidance",
    "PerturbedAttentionGuidance", "SkipLayerGuidance", "SmoothedEnergyGuidance", "TangentialClassifierFreeGuidance",
)  # fmt: skip
"""Published guiders that guide at all."""
PERTURBED = {
    "PerturbedAttentionGuidance": "perturbed_guidance",
    "SkipLayerGuidance": "skip_layer_guidance",
    "SmoothedEnergyGuidance": "seg_guidance",
}
"""Those with a perturbed pass beside the negative one, and how the names of its fields begin."""


def noise(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


POSITIVE, NEGATIVE = Conditioning(noise(1, (2, 5, 8))), Conditioning(noise(2, (2, 5, 8)))


def answers(turn: int, shape: tuple[int, ...] = SHAPE) -> dict[str, Tensor]:
    """What the denoiser says in a turn, by role: noise with much in common, as predictions have."""
    common = noise(100 * turn, shape)
    return {role: common + 0.3 * noise(100 * turn + k + 1, shape) for k, role in enumerate(ROLES)}


class Denoiser:
    """Answers each role with its own prediction, and remembers what it was asked."""

    def __init__(self, said: Mapping[str, Tensor] | None = None) -> None:
        self.said = said
        self.asked: list[list[Pass]] = []

    def __call__(self, passes: Sequence[Pass]) -> Sequence[Tensor]:
        self.asked.append(list(passes))
        return [(self.said or answers(p.step.index, tuple(p.latents.shape)))[p.role] for p in passes]

    @property
    def roles(self) -> list[list[str]]:
        return [[p.role for p in passes] for passes in self.asked]

    def roles_at(self, turn: int) -> list[str]:
        """What was asked in a turn, which may be nothing."""
        return [p.role for passes in self.asked for p in passes if p.step.index == turn]

    @property
    def counts(self) -> list[int]:
        """The passes of each turn."""
        return [len(passes) for passes in self.asked]


def through(
    guider: Block, steps: Schedule = PLAIN, denoiser: Denoiser | None = None, shape: tuple[int, ...] = SHAPE
) -> list[Tensor]:
    """The predictions of a guider in each turn; what it remembers is carried, as a loop does."""
    denoiser = Denoiser() if denoiser is None else denoiser
    memory: dict[str, Any] = {}
    made: list[Tensor] = []
    for step in steps:
        values = {"predict": denoiser, "latents": noise(0, shape), "step": step}
        values |= {"positive": POSITIVE, "negative": NEGATIVE}
        out = guider(**{name: value for name, value in values.items() if name in guider.signature.inputs}, **memory)
        memory = {name: getattr(out, name) for name in guider.signature.memory}
        made.append(out.prediction)
    return made


# -------------------------------------------------------------------------------------------------------- the reference
_WHO = {
    "pred_cond": "positive", "pred_uncond": "negative", "pred_cond_skip": "perturbed", "pred_cond_seg": "perturbed",
}  # fmt: skip


def theirs(diffusers: Any, name: str, **config: Any) -> Any:  # a guider of diffusers
    if name == "MagnitudeAwareGuidance":  # which the package does not export
        return import_module("diffusers.guiders.magnitude_aware_guidance").MagnitudeAwareGuidance(**config)
    return getattr(diffusers, name)(**config)


def their_turn(guider: Any, turn: int, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, int]:
    """What a guider of diffusers makes of the same answers, by its own protocol, and how many it asked for."""
    guider.set_state(step=turn, num_inference_steps=WHOLE, timestep=torch.tensor(0))
    batches = guider.prepare_inputs({"x": (noise(1), noise(2))})
    said = answers(turn, shape)
    weaker = type(guider).__name__ == "AutoGuidance"
    for batch in batches:
        role = _WHO[getattr(batch, guider._identifier_key)]
        batch.noise_pred = said["perturbed" if weaker and role == "negative" else role]
    return guider(batches).pred, len(batches)
