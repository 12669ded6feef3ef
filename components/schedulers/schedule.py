"""A schedule: the noise levels and timesteps of one run, worked out beforehand and never changed.

A schedule is a sequence of turns; a turn is one call of the model. A solver of second order takes two turns for one
whole step. Slices are views that keep absolute indices, so `schedule[k:]` is how strength, a refiner and a resumed run
start in the middle: every number that a turn sees is the one it would have seen in the whole run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor


class Level(NamedTuple):
    """A noise level: a sample at this level is `alpha * clean + sigma * noise`, noise of unit variance."""

    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise to signal, sigma / alpha: the sigma of Karras et al. 2022. Infinite where no signal is left."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio, lambda = log(alpha / sigma): Lu et al. 2022, section 3.1."""
        if not self.sigma:
            return math.inf
        return math.log(self.alpha) - math.log(self.sigma) if self.alpha else -math.inf


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of a schedule: which numbers hold while the model is called and the sample moves on.

    Numbers are plain floats and steer Python; only `t` is a tensor, and it lies on the schedule's device already.
    """

    schedule: "Schedule"
    index: int
    """The absolute place of this turn in the whole schedule, whatever window it was reached through."""

    @property
    def sigma(self) -> float:
        return self.schedule.sigmas[self.index]

    @property
    def next_sigma(self) -> float:
        return self.schedule.sigmas[self.index + 1]

    @property
    def timestep(self) -> float:
        """The model's clock: an int where the scheduler publishes integers, else a float."""
        return self.schedule.timesteps[self.index]

    @property
    def t(self) -> Tensor:
        """`timestep` as a 0-d view (int64 or float32) of `schedule.device_timesteps`; costs no transfer."""
        return self.schedule.timestep_tensors[self.index]

    @property
    def level(self) -> Level:
        """How much signal and noise the sample holds before this turn."""
        return self.schedule.levels[self.index]

    @property
    def target(self) -> Level:
        """How much signal and noise the sample holds after this turn."""
        return self.schedule.targets[self.index]

    @property
    def next(self) -> "Step":
        """The turn after this one, in the whole schedule. The last turn has none: ask `last` first."""
        if self.last:
            raise IndexError(f"turn {self.index} is the last of this schedule; ask step.last before step.next")
        return Step(self.schedule, self.index + 1)

    @property
    def scale_in(self) -> float:
        """What the sample is multiplied by before the model sees it."""
        return self.schedule.scales_in[self.index]

    @property
    def fraction(self) -> float:
        """How much of the whole schedule was done before this turn, in whole steps: 0 at the start, always below 1."""
        whole_step_of = self.schedule.whole_step_of
        return whole_step_of[self.index] / (whole_step_of[-1] + 1)

    @property
    def first(self) -> bool:
        """Is this where the window starts? A solver asks its history instead: a resumed run has one."""
        return self.index == self.schedule.begin

    @property
    def last(self) -> bool:
        """Does this turn finish the sample? It is the end of the whole schedule, not of the window."""
        return self.index == len(self.schedule.timesteps) - 1

    @property
    def noisy(self) -> bool:
        """Does `advance` take noise in this turn? Where it does, it is drawn, even if its weight comes out as 0."""
        return self.schedule.adds_noise[self.index]


@dataclass(frozen=True, repr=False)
class Schedule(Sequence[Step]):
    """The turns of one run. Only `sigmas` and `timesteps` must be given; a scheduler's `steps(n)` gives them all."""

    sigmas: tuple[float, ...]
    """Noise to signal before each turn, and after the last one: one more than there are turns."""
    timesteps: tuple[float, ...]
    """The model's clock in each turn. Ints make an int64 device tensor, floats a float32 one."""
    begin: int = 0
    end: int = -1
    """The window: turns begin <= index < end. -1 stands for all."""
    noise_scale: float = 1.0
    """What unit noise is multiplied by to start the whole schedule (published as `init_noise_sigma`)."""
    levels: tuple[Level, ...] = ()
    """Signal and noise at each of `sigmas`. Default: the signal stays 1 and the noise is sigma."""
    targets: tuple[Level, ...] = ()
    """Where each turn leads. Default: to the next level."""
    scales_in: tuple[float, ...] = ()
    """What the model's input is multiplied by in each turn. Default: 1."""
    adds_noise: tuple[bool, ...] = ()
    """Whether each turn takes noise. Default: none does."""
    whole_step_of: tuple[int, ...] = ()
    """The whole step that each turn belongs to, from 0. Default: one turn a step."""
    device_timesteps: Tensor = field(init=False, compare=False)
    """`timesteps` as one tensor on this schedule's device."""
    timestep_tensors: tuple[Tensor, ...] = field(init=False, compare=False)
    """0-d views of `device_timesteps`, made once."""

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        levels = self.levels or tuple(Level(1.0, sigma) for sigma in self.sigmas)
        self.__dict__.update(
            end=n if self.end < 0 else self.end,
            levels=levels,
            targets=self.targets or levels[1:],
            scales_in=self.scales_in or (1.0,) * n,
            adds_noise=self.adds_noise or (False,) * n,
            whole_step_of=self.whole_step_of or tuple(range(n)),
        )
        per_turn = (self.targets, self.scales_in, self.adds_noise, self.whole_step_of)
        if not len(self.sigmas) == len(self.levels) == n + 1 or any(len(values) != n for values in per_turn):
            raise ValueError(
                f"A schedule of {n} timesteps needs {n + 1} sigmas and levels, which came as {len(self.sigmas)} and "
                f"{len(self.levels)}, and {n} of what it says for each turn."
            )
        if not 0 <= self.begin <= self.end <= n:
            raise ValueError(f"The window {self.begin}..{self.end} does not lie in a schedule of {n} turns.")
        whole = all(isinstance(t, int) for t in self.timesteps)
        with torch.inference_mode(False):  # so that a schedule made in one mode serves in any
            self._place(torch.tensor(self.timesteps, dtype=torch.int64 if whole else torch.float32, device="cpu"))

    def _place(self, timestep_tensors: Tensor) -> None:
        self.__dict__.update(device_timesteps=timestep_tensors, timestep_tensors=timestep_tensors.unbind())

    def _but(self, **changes: Any) -> "Schedule":  # Any: values of fields
        """This schedule with other fields and the same tensors; dataclasses.replace would make them anew."""
        view = object.__new__(Schedule)
        view.__dict__.update(self.__dict__, **changes)
        return view

    def to(self, device: torch.device | str) -> "Schedule":
        """The same schedule with `step.t` on `device`: one transfer here, none in the loop. Devices do not compare."""
        with torch.inference_mode(False):
            moved = self.device_timesteps.to(device)
            if moved is self.device_timesteps:
                return self
            there = self._but()
            there._place(moved)
            return there

    def __len__(self) -> int:
        return self.end - self.begin

    def __iter__(self) -> Iterator[Step]:
        return (Step(self, index) for index in range(self.begin, self.end))

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> "Schedule": ...
    def __getitem__(self, index: int | slice) -> "Step | Schedule":
        if isinstance(index, slice):
            start, stop, stride = index.indices(len(self))
            if stride != 1:
                raise ValueError(f"A schedule is cut, not thinned: a slice by {stride} would skip noise levels.")
            return self._but(begin=self.begin + start, end=self.begin + max(start, stop))
        if not -len(self) <= index < len(self):
            raise IndexError(f"turn {index} of a schedule of {len(self)} turns")
        return Step(self, self.begin + index % len(self))

    def __repr__(self) -> str:
        window = "" if len(self) == len(self.timesteps) else f", turns {self.begin} to {self.end}"
        ends = f", sigma {self.sigmas[0]:.4g} to {self.sigmas[-1]:.4g}"
        return f"Schedule({len(self.timesteps)} turns{ends}{window}, {self.device_timesteps.device})"

    def __getstate__(self) -> dict[str, Any]:  # Any: values of fields
        """Plain numbers. The device stays behind: what was saved on a GPU opens anywhere, on the CPU."""
        return {
            name: value for name, value in self.__dict__.items() if name not in ("device_timesteps", "timestep_tensors")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()
