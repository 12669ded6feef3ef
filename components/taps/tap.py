"""Taps: changes and the layers that they change, as a value that a pass carries."""

from dataclasses import dataclass

from ...graph.errors import ConfigError
from .change import Change, Chosen


@dataclass(frozen=True)
class Tap:
    """A change, and the transformer blocks that it changes.

    layers: indices in forward order, or names: a path or its beginning ("mid", "up_blocks.1"). () is all blocks, or
    those that guiders perturb by default where the change perturbs. stack: the path of the list of blocks that indices
    count in; "auto" for all blocks of the model.

    Raises:
        ConfigError: a value that is no change, or that is not hashable.
    """

    change: Change
    layers: tuple[int | str, ...] = ()
    stack: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.change, Change):  # pyright: ignore[reportUnnecessaryIsInstance]  not all code has types
            raise ConfigError(
                f"A tap needs a change, got a {type(self.change).__name__}. Write a subclass of Change or "
                "AttentionChange of sfumato.taps."
            )
        try:
            hash(self.change)
        except TypeError as error:
            raise ConfigError(
                f"{type(self.change).__name__} needs hashable settings: {error}. Use numbers, text, and tuples."
            ) from None

    @property
    def chosen(self) -> Chosen:
        """The blocks that the tap names."""
        return Chosen(self.layers, self.stack)


@dataclass(frozen=True)
class Taps:
    """All changes for a pass. Passes with equal taps may share a forward; a pass without taps uses the model itself."""

    taps: tuple[Tap, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.taps)

    @property
    def per_pass(self) -> bool:
        """Whether all changes are: see `Change.per_pass`."""
        return all(tap.change.per_pass for tap in self.taps)

    def __add__(self, other: "Taps") -> "Taps":
        """Add the changes of another: they are made after these."""
        return Taps((*self.taps, *other.taps))


NO_TAPS = Taps()
