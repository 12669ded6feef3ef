"""Methods that train a denoiser, and text encoders with it: LoRA, whole models, DreamBooth, without text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from ...blocks.train.text import MakePrompt
from ...blocks.train.weights import WeightPrior
from ...components.adapters.names import DENOISERS
from ...components.training.adapters import AdapterKind, Targets, train_adapter
from ...components.training.trained import Trained
from ...components.training.whole import train_whole
from ...graph import ConfigError, Graph
from .class_pictures import draw_class_pictures
from .data.source import Source
from .method import Method
from .objective import Objective
from .recipe import recipe


def lora(
    pipe: Graph,
    objective: Objective = Objective(),
    *,
    components: Sequence[str] | None = None,
    kind: AdapterKind = "lora",
    rank: int = 16,
    alpha: float | None = None,
    rslora: bool = False,
    targets: Targets | None = None,
    dropout: float = 0.0,
    initialization: Literal["kaiming", "gaussian"] = "kaiming",
    factor: int = -1,
    up_lr_factor: float = 1.0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    seed: int = 0,
) -> Method:
    """Train an adapter of the denoiser, or of other components too: see `train_adapter`, which has these settings."""
    trained = train_adapter(
        pipe, components, kind, rank=rank, alpha=alpha, rslora=rslora, targets=targets, dropout=dropout,
        initialization=initialization, factor=factor, up_lr_factor=up_lr_factor, dtype=getattr(torch, dtype), seed=seed,
    )  # fmt: skip
    return Method(objective.changed(recipe(pipe)), trained)


def finetune(pipe: Graph, objective: Objective = Objective(), *, components: Sequence[str] | None = None) -> Method:
    """Train all weights of the denoiser, or of these components."""
    return Method(objective.changed(recipe(pipe)), _whole(pipe, components))


def dreambooth(
    pipe: Graph,
    objective: Objective = Objective(),
    *,
    class_prompt: str | None = None,
    class_pictures: int = 100,
    class_inputs: Mapping[str, object] | None = None,
    class_folder: str | Path | None = None,
    prior_weight: float = 1.0,
    whole: bool = False,
    components: Sequence[str] | None = None,
    rank: int = 16,
    alpha: float | None = None,
    seed: int = 0,
) -> Method:
    """Teach the model a subject from a few pictures (Ruiz et al. 2022), and keep what it knows of the subject's class.

    Args:
        pipe: the preset. It draws the pictures of the class.
        objective: choices of the recipe.
        class_prompt: a prompt for the class, such as "a dog". None: the data has pictures of the class
            (`Source(…, is_prior=True)`), or `prior_weight` is 0.
        class_pictures: how many are drawn.
        class_inputs: further inputs of the preset for them, such as `{"num_inference_steps": 20}`.
        class_folder: they are kept there; None for a folder in that of the output.
        prior_weight: how much the loss on the class counts. 0: no pictures of the class are needed.
        whole: whether all weights are trained, and not an adapter.
        components: what is trained; None for the denoiser.
        rank, alpha, seed: of the adapter.
    """
    graph = objective.changed(recipe(pipe))
    if prior_weight:
        graph = graph.insert("weight_prior", WeightPrior(prior_weight=prior_weight), after="weight")
    elif class_prompt is not None:
        raise ConfigError("class_prompt: with prior_weight=0 no pictures of the class are used. Leave one out.")
    trained: Trained = (
        _whole(pipe, components) if whole else train_adapter(pipe, components, rank=rank, alpha=alpha, seed=seed)
    )
    if class_prompt is None:
        return Method(graph, trained)

    def more_data(folder: Path) -> Sequence[Source]:
        drawn = draw_class_pictures(
            pipe, class_prompt, class_pictures, Path(class_folder or folder / "class-pictures"), class_inputs or {}
        )
        return [Source(drawn, prompt=class_prompt, is_prior=True, weight=1.0)]

    return Method(graph, trained, more_data=more_data)


def unconditional(
    pipe: Graph, objective: Objective = Objective(), *, components: Sequence[str] | None = None, prompt: str = ""
) -> Method:
    """Train all weights of the denoiser on pictures without captions: each has the same `prompt`."""
    graph = recipe(pipe)
    if "prompt" in graph.inputs:
        first = next(iter(graph.nodes))
        graph = graph.insert("prompt", MakePrompt(text=prompt), before=first)
    return Method(objective.changed(graph), _whole(pipe, components))


def denoiser_of(pipe: Graph) -> str:
    """The name of the denoiser among the components of a graph. ConfigError where there is none."""
    if found := [name for name in pipe.bindings if name in DENOISERS]:
        return found[0]
    raise ConfigError(f"components: the graph has no denoiser. Pass components=; it has {', '.join(pipe.bindings)}.")


def _whole(pipe: Graph, components: Sequence[str] | None) -> Trained:
    return train_whole(pipe, [denoiser_of(pipe)] if components is None else components)
