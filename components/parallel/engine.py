"""The engine of a denoiser that several processes compute together."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..adapters.over import config_of, type_of
from ..engines.engine import DENOISERS, Candidate, Engine
from ..engines.layer import engine_class
from ..engines.programs import Programs
from ..models.deep_layers import LayeredDenoiser
from ..models.views import shallow_copy
from .passes import DividedPasses
from .plans import Division
from .processes import processes_of
from .shared import SHARED, SharedDenoiser
from .tokens import DividedDenoiser, DividedTokens


@dataclass(frozen=True)
class Parallel(Engine):
    """Several processes compute the denoiser together. `pipe.parallel(…)` makes one.

    division: what they divide.
    """

    name: ClassVar[str] = "parallel"
    outermost: ClassVar[bool] = True
    division: Division

    @property
    def tolerance(self) -> float:
        """1e-5 in float32: products of other sizes, and sums in another order."""
        return 1e-5

    def chosen(self, candidate: Candidate) -> bool:
        """The denoiser."""
        return candidate.name in DENOISERS

    def refusal(self, candidate: Candidate) -> str:
        """Why it cannot run a component. Passes are divided whole, so the model may lie on several devices."""
        return super().refusal(candidate if self._divides_tokens else candidate._replace(split=False))

    @property
    def _divides_tokens(self) -> bool:
        return self.division.mesh.ring * self.division.mesh.heads > 1

    def refusal_of(self, name: str, component: Any) -> str:
        """Why it cannot run a component; "" if it can."""
        if reason := self.refusal(Candidate.of(name, component)):
            return reason
        mesh = self.division.mesh
        if not self._divides_tokens:
            return ""
        kind = type_of(component)
        if not (issubclass(kind, LayeredDenoiser) and kind.deep_adds):
            return (
                f"is a {kind.__name__}, whose convolutions read neighbouring tokens, so its tokens cannot be divided. "
                'Use "guidance" or "batch"'
            )
        heads = config_of(component)["num_attention_heads"]
        if heads % mesh.heads:
            return (
                f"has {heads} heads, which {mesh.heads} processes cannot divide evenly. Choose another number for "
                "ulysses, or use Context(ulysses=1, ring=…), which divides no heads"
            )
        return ""

    def refusal_over(self, inner: Engine) -> str:
        """Why it cannot divide what another engine runs; "" if it can."""
        if self._divides_tokens:
            return f"Context changes layers that the engine {inner.name} runs whole. Use one of the two"
        return ""

    def view(self, model: nn.Module, programs: Programs) -> nn.Module:
        """A view whose passes or tokens are divided over the processes."""
        processes = processes_of(self.division.mesh)
        divides = self._divides_tokens
        twin = shallow_copy(model, engine_class(DividedDenoiser, type(model)) if divides else None)
        if divides:
            twin.__dict__["divided_tokens"] = tokens = DividedTokens(processes, programs)
            tokens.known = twin
        passes = DividedPasses(processes, self.division.unit) if self.division.unit is not None else None
        twin.__dict__[SHARED] = SharedDenoiser(processes, passes)
        return twin
