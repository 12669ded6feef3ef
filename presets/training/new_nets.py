"""Nets that are trained beside a model: control nets, adapters, image prompts. The model does not change."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...components.adapters.layouts import Layout
from ...components.models.base import Model
from ...components.training.trained import NO_BINDINGS, NO_HEADER, ParameterGroup, Trained
from ...graph import ConfigError, Graph
from ...registry import presets as families
from ..family import Family


class TrainedNet(Trained):
    """A net in training, which a graph gets besides its models.

    name: of its component, by which `sf.load` takes it: `sf.load(folder, controlnet=…)`. more: further components that
    its block needs, by name.
    """

    suffix = ""

    def __init__(self, name: str, net: Model[Any], more: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.name, self.net = name, net.float().train().requires_grad_(True)
        self._more = dict(more or {})

    def bindings(self, over: Mapping[str, Any] = NO_BINDINGS) -> Mapping[str, Any]:
        """The net itself."""
        return {self.name: self.net}

    def groups(self) -> Sequence[ParameterGroup]:
        """One group, with the name of the component."""
        return [ParameterGroup(self.name, tuple(self.net.parameters()))]

    def attached(self, pipe: Graph) -> Graph:
        """The preset with the block of the net before its guider; see `Trained.attached`."""
        return with_net(pipe, {self.name: self.net, **self._more})

    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write the folder of the net with its config, which has no place for a header."""
        self.net.save_pretrained(path)
        return Path(path)

    def load(self, path: str | Path) -> Model[Any]:
        """The net of a saved folder; see `Trained.load`."""
        return type(self.net).from_pretrained(path)


@contextmanager
def first_weights(seed: int) -> Generator[None]:
    """Draw the weights of models that are made within it from a seed, and leave torch's global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def with_net(pipe: Graph, components: Mapping[str, Any]) -> Graph:
    """The graph of a preset with a net besides its models, as `sf.load` makes it when it gets the net.

    Raises:
        ConfigError: a graph of no family, or of one that has no block for this net.
    """
    family = families[pipe.preset[0]] if pipe.preset else None
    made = family.attach(pipe, components) if isinstance(family, Family) else pipe
    name = next(iter(components))
    if name not in made.components:
        kind = type(components[name]).__name__
        where = f"The family {pipe.preset[0]!r}" if pipe.preset else "A graph of no family"
        raise ConfigError(f"{where} has no block for a {kind}. Use a preset of Stable Diffusion or SDXL.")
    return made.bind({key: value for key, value in components.items() if key in made.components})
