"""The base of tensor classes that hold another tensor and have no data of their own: the methods that torch needs."""

from typing import Self

import torch
from torch import Tensor


class WrapperTensor(Tensor):
    """A tensor that reports one device and dtype, while its data are stored as another tensor.

    A subclass says in `fetch` how the data come to the reported device, and in `__torch_dispatch__` what an operation
    on it does. It never needs a gradient of its own.
    """

    stored: Tensor

    @classmethod
    def wrap(cls, stored: Tensor, device: torch.device, dtype: torch.dtype) -> Self:
        """A tensor of the shape and strides of `stored` that reports this device and dtype."""
        made = Tensor._make_wrapper_subclass(
            cls, stored.shape, strides=stored.stride(), dtype=dtype, device=device, requires_grad=False
        )
        made.stored = stored
        return made

    def fetch(self) -> Tensor:
        """A plain tensor with the data, on the reported device and in the reported dtype."""
        raise NotImplementedError("A subclass of this wrapper says where the data are.")

    def __deepcopy__(self, memo: object) -> Tensor:  # type: ignore[override]  # torch leaves it untyped
        return self.fetch().clone()  # a copy of a model is a plain model

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return (
            f"{type(self).__name__}({tuple(self.shape)}, {self.dtype} on {self.device}, stored as {self.stored.dtype} "
            f"on {self.stored.device})"
        )

    # torch's way to say that only __torch_dispatch__ is overridden
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]
