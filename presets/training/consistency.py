"""Consistency distillation (Luo et al. 2023): a model or a LoRA that draws in a few steps."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...blocks.denoise.unet import PredictNoise
from ...blocks.train.distill import DrawGuidance, MakeDistillationSchedule, PredictConsistent, SolveStep
from ...blocks.train.losses import PseudoHuber
from ...blocks.train.timesteps import DrawTimesteps
from ...components.adapters.layouts import Layout
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...components.training.adapters import Targets, train_adapter
from ...components.training.trained import NO_BINDINGS, NO_HEADER, ParameterGroup, Trained
from ...graph import Block, ConfigError, Graph, named
from ...graph.paths import block_at
from ...registry import presets as families
from ..family import Family
from .control import bound_unet, unet_of
from .method import Method
from .recipe import OUTPUTS, recipe

_DRAWS_WITH: Mapping[str, Any] = {"scheduler": "lcm", "num_inference_steps": 4}
"""The inputs of a preset for a consistency model; its publisher draws in 4 steps."""


def lcm_lora(
    pipe: Graph,
    *,
    rank: int = 64,
    alpha: float | None = None,
    targets: Targets | None = None,
    seed: int = 0,
    original_inference_steps: int = 50,
    w_min: float = 5.0,
    w_max: float = 15.0,
    huber_c: float = 0.001,
) -> Method:
    """Train a LoRA with which the denoiser draws in a few steps: with the scheduler "lcm", and without a guider.

    The teacher is the denoiser without the LoRA, and the target is the student itself.

    Args:
        pipe: a preset of Stable Diffusion 1, 2 or XL.
        rank, alpha, targets, seed: of the LoRA; see `train_adapter`.
        original_inference_steps: the steps of the teacher's schedule; that of `LCMScheduler`.
        w_min, w_max: the guidance that the student learns; see `DrawGuidance`.
        huber_c: of the loss; see `PseudoHuber`.

    Raises:
        ConfigError: settings that do not fit, or a preset without a guider or a diffusion model.
    """
    graph = _distillation(pipe, _changes(original_inference_steps, w_min, w_max, huber_c), whole=False)
    trained = train_adapter(pipe, rank=rank, alpha=alpha, targets=targets, seed=seed, name="lcm")
    return Method(graph, trained, {**_DRAWS_WITH, "guider": "none"})


def lcm(
    pipe: Graph,
    *,
    guidance_width: int = 256,
    ema_decay: float = 0.95,
    original_inference_steps: int = 50,
    w_min: float = 5.0,
    w_max: float = 15.0,
    huber_c: float = 0.001,
) -> Method:
    """Train a U-Net that draws in a few steps, and reads the guidance scale. It starts from the U-Net of the preset.

    The teacher is the U-Net of the preset. The target is a moving average of the student.

    Args:
        pipe: a preset of Stable Diffusion 1, 2 or XL.
        guidance_width: of the embedded guidance scale (`time_cond_proj_dim`).
        ema_decay: the share of the average that stays at each step.
        original_inference_steps, w_min, w_max, huber_c: as in `lcm_lora`.

    Raises:
        ConfigError: as `lcm_lora`.
    """
    graph = _distillation(pipe, _changes(original_inference_steps, w_min, w_max, huber_c), whole=True)
    trained = DistilledUNet(student_of(unet_of(pipe), guidance_width), ema_decay)
    return Method(graph, trained, _DRAWS_WITH)


def _changes(original_inference_steps: int, w_min: float, w_max: float, huber_c: float) -> Mapping[str, Block]:
    """The blocks that the settings decide, by node."""
    if w_min > w_max:
        raise ConfigError(f"w_min: needs a number up to w_max={w_max:g}, got {w_min:g}.")
    return {
        "schedule": MakeDistillationSchedule(original_inference_steps=original_inference_steps),
        "guidance": DrawGuidance(w_min=w_min, w_max=w_max),
        "loss": PseudoHuber(huber_c=huber_c),
    }


def student_of(teacher: UNet2DConditionModel, guidance_width: int) -> UNet2DConditionModel:
    """A copy of a U-Net that reads the guidance scale too. At the start it predicts the same, whatever the scale."""
    student = UNet2DConditionModel.from_config({**teacher.config.to_dict(), "time_cond_proj_dim": guidance_width})
    student.load_state_dict(teacher.state_dict(), strict=False)
    assert student.time_embedding.cond_proj is not None
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.to(teacher.device)


class DistilledUNet(Trained):
    """A U-Net in distillation, and the moving average of it that makes the targets.

    The average is no parameter: its weights are buffers, so that checkpoints have them.
    """

    suffix = ""

    def __init__(self, student: UNet2DConditionModel, ema_decay: float) -> None:
        super().__init__()
        self.ema_decay = ema_decay
        self.unet = student.float().train().requires_grad_(True)
        self.target_unet = _with_buffers(deepcopy(self.unet))

    def bindings(self, over: Mapping[str, Any] = NO_BINDINGS) -> Mapping[str, Any]:
        """The student and the average."""
        return {"unet": self.unet, "target_unet": self.target_unet}

    def groups(self) -> Sequence[ParameterGroup]:
        """One group."""
        return [ParameterGroup("unet", tuple(self.unet.parameters()))]

    def attached(self, pipe: Graph) -> Graph:
        """The preset with the student: without a guider, since it reads the guidance scale."""
        made = pipe.bind(unet=self.unet)
        family = families[pipe.preset[0]] if pipe.preset else None
        if not isinstance(family, Family):
            return made
        fitted = family.refitted(made, pipe)
        return fitted.bind({name: value for name, value in made.bindings.items() if name in fitted.components})

    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write the folder of the student: `sf.load(…, unet=folder, scheduler="lcm")` loads it."""
        self.unet.save_pretrained(path)
        return Path(path)

    def load(self, path: str | Path) -> UNet2DConditionModel:
        """The student of a saved folder; see `Trained.load`."""
        return UNet2DConditionModel.from_pretrained(path)

    def after_step(self) -> None:
        """Move the average towards the student."""
        average = dict(self.target_unet.named_buffers())
        with torch.no_grad():
            for name, weight in self.unet.named_parameters():
                average[name].mul_(self.ema_decay).add_(weight, alpha=1 - self.ema_decay)


def _with_buffers(model: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same model, whose parameters are buffers now."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return model


def _distillation(pipe: Graph, changes: Mapping[str, Block], *, whole: bool) -> Graph:
    """The recipe. Its components beside those of the preset: `teacher_unet`, and for a whole model `target_unet`."""
    teacher = bound_unet(pipe)
    if "negative" not in pipe.nodes or block_at(pipe, "denoise.predict") != PredictNoise():
        raise ConfigError(
            "Consistency distillation needs a U-Net that reads no guidance scale, and a preset with a negative prompt. "
            "This one is distilled already, or edited. Use its base model."
        )
    names = {"noisy_latents": "solved_latents", "row_steps": "next_steps", "prediction": "target"}
    if whole:
        names["predict"] = "predict_target"
    graph = (
        recipe(pipe, more=("negative",))
        .replace("schedule", changes["schedule"])
        .replace("timesteps", DrawTimesteps(first=1))  # the last step of the schedule is an end alone
        .replace("predict_rows", PredictConsistent(reads_guidance=whole))
        .replace("loss", changes["loss"])
        .remove("target")
        .insert("target", named(PredictConsistent(reads_guidance=whole, frozen=True), **names), before="predict_rows")
        .insert("solve", SolveStep(), before="target")
        .insert("teacher", named(PredictNoise(), predict="predict_teacher", unet="teacher_unet"), before="solve")
        .insert("guidance", changes["guidance"], after="timesteps")
    )
    if whole:
        target = named(PredictNoise(), predict="predict_target", unet="target_unet")
        graph = graph.insert("target_unet", target, before="target")
    return graph.only(*OUTPUTS).bind(teacher_unet=teacher)
