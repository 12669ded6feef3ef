"""Changes of layers for passes: attention of your own, FreeU, token merging."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

from torch import Tensor

from ...components.taps.change import Change
from ...components.taps.tap import Tap, Taps
from ...components.types import Pass, Predict, Role, ZeroToOne
from ...graph import Above, Block
from ..guiders.layers import RequiredLayers
from .residuals import is_inside


class Tapped(NamedTuple):
    """The denoiser as a function, with changed layers."""

    predict: Predict


class ApplyTap(Block):
    """Change layers of the denoiser, for passes of some roles and in some steps. Put it before the guider.

    change: such as `sf.taps.FreeU()`. layers, stack: which blocks it changes; see `Tap`. roles: of the passes that it
    changes. A pass that it changes shares no forward with one that it does not change. start, stop: the interval in
    which it is on, as fractions of the steps of this run. A step counts where it lies wholly inside. Of several such
    blocks, the change of the one before is inside that of the one after; those that a guider asks for are outside.

    Raises:
        ConfigError: layers that the denoiser does not have, when the graph is made.
    """

    change: Change
    layers: tuple[int | str, ...] = ()
    stack: str = "auto"
    roles: tuple[Role, ...] = ("positive", "negative", "perturbed")
    start: ZeroToOne = 0.0
    stop: Annotated[ZeroToOne, Above("start")] = 1.0

    def __post_init__(self) -> None:
        vars(self)["tap"] = RequiredLayers((Tap(self.change, self.layers, self.stack),))

    def __call__(self, predict: Predict) -> Tapped:
        tap = Tap(self.change, self.layers, self.stack)

        def tapped(p: Pass) -> Pass:
            on = p.role in self.roles and is_inside(p.step, self.start, self.stop)
            return replace(p, taps=Taps((tap, *p.taps.taps))) if on else p

        def changed(passes: Sequence[Pass]) -> Sequence[Tensor]:
            return predict([tapped(p) for p in passes])

        return Tapped(changed)
