"""The base of engines: other ways to run the heavy components of a graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

from torch import nn

from ..adapters.over import innermost
from ..attention.attended import backend_of
from ..handle import Handle
from ..memory.tensors import device_of
from ..models.autoencoder import Autoencoder
from ..models.base import Model
from .programs import Programs

DENOISERS = ("unet", "transformer")


class Candidate(NamedTuple):
    """A component that an engine may run.

    name: in the graph. kind: its class. device: where it is. quantized: whether a library has quantized its weights.
    split: whether it lies on several devices. attention: the name of the backend that is set for it; "" for none.
    """

    name: str
    kind: Any  # a class of any library
    device: str
    quantized: bool
    split: bool
    attention: str = ""

    @classmethod
    def of(cls, name: str, component: Any) -> "Candidate":  # an object or a handle
        """The facts of a component. Loads nothing."""
        attention = backend_of(component)
        component = innermost(component)
        if isinstance(component, Handle):
            quantized, split = component.is_quantized, component.device_map is not None
            return cls(name, component.type, component.device, quantized, split, attention)
        quantized = getattr(component, "quantization", None) is not None
        return cls(name, type(component), device_of(component), quantized, False, attention)

    @property
    def is_model(self) -> bool:
        """Whether it is a model of this library, which this program computes."""
        return isinstance(self.kind, type) and issubclass(self.kind, Model) and not self.kind.is_remote


@dataclass(frozen=True)
class Engine(ABC):
    """A way to run models. Its fields are settings; equal engines run equal models alike."""

    name: ClassVar[str]
    """For tables and errors."""
    outermost: ClassVar[bool] = False
    """Whether it may run a component that another engine runs too."""
    own_attention: ClassVar[bool] = False
    """Whether it computes attention by kernels of its own, whatever backend is set."""

    @property
    @abstractmethod
    def tolerance(self) -> float:
        """The largest difference to the model in float32, as a fraction of the largest number of its output."""

    def chosen(self, candidate: Candidate) -> bool:
        """Whether it runs this component where nobody names components: by default all models."""
        return candidate.is_model

    def refusal(self, candidate: Candidate) -> str:
        """Why it cannot run a component, as a sentence that begins with a verb; "" if it can."""
        if not candidate.is_model:
            kind = getattr(candidate.kind, "__name__", "an unknown class")
            remote = getattr(candidate.kind, "is_remote", False)
            return f"is a {kind}, which {'another program computes' if remote else 'is no model of this library'}"
        if candidate.split:
            return "lies on several devices"
        if self.own_attention and candidate.attention:
            return (
                f"has the attention {candidate.attention!r}, and {self.name} has its own. "
                "Write using(attention=None) first"
            )
        return ""

    def refusal_over(self, inner: "Engine") -> str:
        """Why an outermost engine cannot run what another engine runs; "" if it can."""
        return ""

    @abstractmethod
    def view(self, model: nn.Module, programs: Programs) -> nn.Module:
        """A view of a model that this engine runs. programs: keeps what is made for it."""

    def numbers(self, model: Callable[[], nn.Module]) -> int:
        """The estimated count of numbers that it keeps beside a model, in the model's dtype. model: gives one without
        values."""
        return 0

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its fields, for tables."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def key(self) -> str:
        """A text that is equal only for engines whose results are equal."""
        return repr(self)


def sites(model: nn.Module) -> tuple[str, ...]:
    """The paths of the modules of a model that are called whole: the two halves of an autoencoder, or the model."""
    return ("encoder", "decoder") if isinstance(model, Autoencoder) else ("",)
