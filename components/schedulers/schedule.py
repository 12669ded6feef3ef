"""A schedule: the noise levels and timesteps of one run, planned before it starts and never changed.

A schedule is a sequence of steps; a step is one call of the model. A solver of second order takes two steps for one
whole step. Slices are views that keep absolute indices, so `schedule[k:]` is how strength, a refiner and a resumed run
start in the middle: each number of a step is the one that it has in the whole schedule. A slice is a run of its own. A
`part` is a run that stops early or goes on; its field `run` is the whole run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self, overload

import torch
from torch import Tensor

from ...graph.errors import UnfitValue

WORK = "schedule"
"""The work of schedules and steps, as `__belongs_to__` names it. Along the edges of a graph it has one scheduler."""


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


def _equal(a: float, b: float) -> bool:
    """Whether two noise levels are one: schedulers compute them in float32 and float64."""
    return a == b or math.isclose(a, b, rel_tol=1e-4)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a schedule: the numbers that hold while the model is called and the sample moves on.

    Numbers are Python floats and steer Python; only `t` is a tensor, and it is on the schedule's device already.
    """

    __belongs_to__: ClassVar[str] = WORK

    schedule: "Schedule"
    index: int
    """The index of this step in the whole schedule, whatever slice it was reached through."""

    @property
    def sigma(self) -> float:
        """Noise to signal before this step."""
        return self.schedule.sigmas[self.index]

    @property
    def next_sigma(self) -> float:
        """Noise to signal before the next step, or at the end of the run."""
        return self.schedule.sigmas[self.index + 1]

    @property
    def timestep(self) -> float:
        """The timestep that the model gets: an int where the scheduler publishes integers, else a float."""
        return self.schedule.timesteps[self.index]

    @property
    def t(self) -> Tensor:
        """`timestep` as a 0-d view (int64 or float32) of `schedule.device_timesteps`; costs no transfer."""
        return self.schedule.timestep_tensors[self.index]

    @property
    def time(self) -> Tensor:
        """`t` in float32, as denoisers read it; made with the schedule too."""
        return self.schedule.times[self.index]

    @property
    def level(self) -> Level:
        """The signal and noise of the sample before this step."""
        return self.schedule.levels[self.index]

    @property
    def target(self) -> Level:
        """The signal and noise of the sample after this step."""
        return self.schedule.targets[self.index]

    @property
    def made_by(self) -> str:
        """The scheduler that made the schedule, as text; see `Schedule.made_by`."""
        return self.schedule.made_by

    @property
    def next(self) -> "Step":
        """The next step of the whole schedule. IndexError at the last step: read `last` first."""
        if self.last:
            raise IndexError(f"Step {self.index} is the last of this schedule. Read step.last before step.next.")
        return Step(self.schedule, self.index + 1)

    @property
    def scale_in(self) -> float:
        """The factor that multiplies the sample before the model gets it."""
        return self.schedule.scales_in[self.index]

    @property
    def fraction(self) -> float:
        """The fraction of the schedule's whole steps before this step: 0 at the start, always below 1."""
        whole = self.schedule.places
        return whole[self.index] / (whole[-1] + 1)

    @property
    def first(self) -> bool:
        """Whether the slice starts here. A solver reads its history instead: a resumed run has one."""
        return self.index == self.schedule.begin

    @property
    def last(self) -> bool:
        """Whether this step finishes the sample: the end of the whole schedule, not of the slice."""
        return self.index == len(self.schedule.timesteps) - 1

    @property
    def noisy(self) -> bool:
        """Whether `advance` needs noise in this step. If so, it is drawn, even if its weight is 0."""
        return self.schedule.adds_noise[self.index]


@dataclass(frozen=True, repr=False)
class Schedule(Sequence[Step]):
    """The steps of one run. Only `sigmas` and `timesteps` are required; a scheduler's `steps(n)` sets all fields."""

    __belongs_to__: ClassVar[str] = WORK
    resumes: ClassVar[tuple[str, ...]] = ("latents",)
    """The carried values of a loop that are at a noise level of the schedule: see `resume_from`."""

    sigmas: tuple[float, ...]
    """Noise to signal before each step, and after the last one: one more than there are steps."""
    timesteps: tuple[float, ...]
    """The timestep that the model gets in each step. Ints make an int64 device tensor, floats a float32 one."""
    begin: int = 0
    end: int = -1
    """The slice: steps begin <= index < end. -1 means all."""
    noise_scale: float = 1.0
    """The factor that multiplies unit noise at the start of the whole schedule (published as `init_noise_sigma`)."""
    levels: tuple[Level, ...] = ()
    """Signal and noise at each of `sigmas`. Default: the signal stays 1 and the noise is sigma."""
    targets: tuple[Level, ...] = ()
    """The level that each step leads to. Default: the next level."""
    scales_in: tuple[float, ...] = ()
    """The factor that multiplies the model's input in each step. Default: 1."""
    adds_noise: tuple[bool, ...] = ()
    """Whether each step needs noise. Default: none does."""
    places: tuple[int, ...] = ()
    """The number of the whole step that each step belongs to, from 0. Default: each step is one."""
    run: tuple[int, int] = (-1, -1)
    """The slice that the whole run goes through; `part` takes a slice of it. Default: begin and end."""
    made_by: str = field(default="", compare=False)
    """The scheduler that made it, as text, which a call compares with its own; "" where it was written by hand."""
    device_timesteps: Tensor = field(init=False, compare=False)
    """`timesteps` as one tensor on this schedule's device."""
    timestep_tensors: tuple[Tensor, ...] = field(init=False, compare=False)
    """0-d views of `device_timesteps`, made once."""
    times: tuple[Tensor, ...] = field(init=False, compare=False)
    """The same in float32."""

    @classmethod
    def through(
        cls,
        levels: Sequence[Level],
        timesteps: Sequence[float],
        *,
        targets: tuple[Level, ...] = (),
        adds_noise: tuple[bool, ...] = (),
        places: tuple[int, ...] = (),
    ) -> Self:
        """A schedule through these levels, the end of the run last; sigmas are their noise to signal."""
        return cls(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=tuple(timesteps),
            levels=tuple(levels),
            targets=targets,
            adds_noise=adds_noise,
            places=places,
        )

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        levels = self.levels or tuple(Level(1.0, sigma) for sigma in self.sigmas)
        self.__dict__.update(
            end=n if self.end < 0 else self.end,
            levels=levels,
            targets=self.targets or levels[1:],
            scales_in=self.scales_in or (1.0,) * n,
            adds_noise=self.adds_noise or (False,) * n,
            places=self.places or tuple(range(n)),
        )
        per_step = (self.targets, self.scales_in, self.adds_noise, self.places)
        if not len(self.sigmas) == len(self.levels) == n + 1 or any(len(values) != n for values in per_step):
            raise UnfitValue(
                f"A schedule of {n} timesteps needs {n + 1} sigmas and levels, and {n} targets, scales_in, adds_noise "
                f"and places. Got {len(self.sigmas)} and {len(self.levels)}, and "
                f"{', '.join(str(len(values)) for values in per_step)}."
            )
        if not 0 <= self.begin <= self.end <= n:
            raise UnfitValue(f"A schedule of {n} steps has no slice {self.begin}..{self.end}.")
        if self.run == (-1, -1):
            self.__dict__["run"] = self.begin, self.end
        if not 0 <= self.run[0] <= self.begin <= self.end <= self.run[1] <= n:
            raise UnfitValue(f"The run {self.run[0]}..{self.run[1]} of {n} steps has no part {self.begin}..{self.end}.")
        whole = all(isinstance(t, int) for t in self.timesteps)
        with torch.inference_mode(False):  # so that a schedule made in one mode serves in any
            self._set_device_timesteps(
                torch.tensor(self.timesteps, dtype=torch.int64 if whole else torch.float32, device="cpu")
            )

    def _set_device_timesteps(self, timesteps: Tensor) -> None:
        self.__dict__.update(
            device_timesteps=timesteps, timestep_tensors=timesteps.unbind(), times=timesteps.float().unbind()
        )

    def _with(self, **changes: Any) -> "Schedule":  # Any: values of fields
        """This schedule with other fields and the same tensors; dataclasses.replace would make new tensors."""
        view = object.__new__(Schedule)
        view.__dict__.update(self.__dict__, **changes)
        return view

    def to(self, device: torch.device | str) -> "Schedule":
        """The same schedule with `step.t` on `device`: one transfer here, none in the loop. Equality ignores it."""
        with torch.inference_mode(False):
            timesteps = self.device_timesteps.to(device)
            if timesteps is self.device_timesteps:
                return self
            moved = self._with()
            moved._set_device_timesteps(timesteps)
            return moved

    def resume_from(self, other: "Schedule", turn: int, carried: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """The step to go on with after `turn` steps of another schedule, and the latents on the scale of this one.

        That is the start of a whole step at the noise level that the latents have. Latents of one level differ between
        schedulers by a factor: they are `alpha * clean + sigma * noise`, and sigma / alpha is the same.

        Raises:
            UnfitValue: no step of this schedule starts at that level.
        """
        reached = other.levels[other.begin + turn]
        starts = [i for i in range(self.begin, self.end) if i == 0 or self.places[i] != self.places[i - 1]]
        found = next((i for i in starts if _equal(self.levels[i].ratio, reached.ratio)), None)
        if found is None:
            near = sorted(starts, key=lambda i: abs(self.levels[i].ratio - reached.ratio))[:2]
            levels = " and ".join(f"{self.levels[i].ratio:.4g}" for i in sorted(near))
            raise UnfitValue(
                f"has done {turn} steps, to the noise level {reached.ratio:.4g} (sigma / alpha), and no step of the "
                f"new schedule starts there: the nearest ones start at {levels}. Keep the scheduler's levels and the "
                "number of steps."
            )
        level = self.levels[found]
        factor = level.sigma / reached.sigma if reached.sigma else 1.0
        latents = carried["latents"]
        return found - self.begin, {**carried, "latents": latents if factor == 1.0 else latents * factor}

    def part(self, begin: int, end: int) -> "Schedule":
        """The steps begin <= index < end of this run, as a part of it: `run` stays. UnfitValue outside of the run."""
        if not self.run[0] <= begin <= end <= self.run[1]:
            raise UnfitValue(f"A run through the steps {self.run[0]}..{self.run[1]} has no part {begin}..{end}.")
        return self._with(begin=begin, end=end)

    @property
    def whole(self) -> "Schedule":
        """All steps, whatever slice this is."""
        n = len(self.timesteps)
        return self._with(begin=0, end=n, run=(0, n))

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
                raise UnfitValue(f"A schedule has slices of stride 1 only: a stride of {stride} skips noise levels.")
            begin, end = self.begin + start, self.begin + max(start, stop)
            return self._with(begin=begin, end=end, run=(begin, end))
        if not -len(self) <= index < len(self):
            raise IndexError(f"A schedule of {len(self)} steps has no step {index}.")
        return Step(self, self.begin + index % len(self))

    def __repr__(self) -> str:
        window = "" if len(self) == len(self.timesteps) else f", steps {self.begin} to {self.end}"
        ends = f", sigma {self.sigmas[0]:.4g} to {self.sigmas[-1]:.4g}"
        return f"Schedule({len(self.timesteps)} steps{ends}{window}, {self.device_timesteps.device})"

    def __getstate__(self) -> dict[str, Any]:  # Any: values of fields
        """Plain numbers without the device: a schedule that was saved on a GPU opens anywhere, on the CPU."""
        tensors = ("device_timesteps", "timestep_tensors", "times")
        return {name: value for name, value in self.__dict__.items() if name not in tensors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()
