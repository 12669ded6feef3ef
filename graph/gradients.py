"""`gradients()`: runs that record what torch needs for gradients, as training does."""

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

_RECORDED: ContextVar[bool] = ContextVar("sfumato_gradients", default=False)


@contextmanager
def gradients() -> Generator[None]:
    """Record gradients in all runs that start within it. Other runs record none, which needs less memory.

    >>> import torch
    >>> from typing import NamedTuple
    >>> import sfumato as sf
    >>> class Squared(NamedTuple):
    ...     loss: torch.Tensor
    >>> class Square(sf.Block):
    ...     def __call__(self, weight: torch.Tensor) -> Squared:
    ...         return Squared((weight**2).sum())
    >>> weight = torch.tensor([3.0], requires_grad=True)
    >>> graph = sf.Graph(square=Square())
    >>> graph(weight=weight).loss.requires_grad
    False
    >>> with sf.gradients():
    ...     graph(weight=weight).loss.backward()
    >>> weight.grad
    tensor([6.])
    """
    token = _RECORDED.set(True)
    try:
        yield
    finally:
        _RECORDED.reset(token)


def gradients_recorded() -> bool:
    """Whether a run that starts now records gradients."""
    return _RECORDED.get()


def gradient_mode(recorded: bool) -> AbstractContextManager[Any]:
    """The context in which blocks are called: without `recorded`, torch records nothing, if it is imported."""
    torch = sys.modules.get("torch")
    return torch.no_grad() if not recorded and torch is not None and hasattr(torch, "no_grad") else nullcontext()
