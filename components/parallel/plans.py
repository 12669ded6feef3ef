"""Plans: what the processes of a graph divide."""

from dataclasses import dataclass
from typing import Any

from ...graph.errors import ConfigError
from ...graph.validate import value_text
from ...registry import did_you_mean
from .passes import Unit
from .processes import Mesh


def _check(name: str, **numbers: int | None) -> None:
    for field, value in numbers.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{name}: {field} needs a number of processes from 1 on, got {value_text(value)}.")


@dataclass(frozen=True)
class Guidance:
    """Divide the passes of each step: with classifier-free guidance, one process computes each of the two.

    A pass stays whole, whatever its rows. processes: so many divide the passes; None for all, or 2 beside `Context`.
    """

    processes: int | None = None

    def __post_init__(self) -> None:
        _check("Guidance", processes=self.processes)


@dataclass(frozen=True)
class Batch:
    """Divide the rows of all passes: the pictures of a call, and its passes too where there are fewer pictures.

    processes: so many divide the rows; None for all, or for those that `Context` leaves.
    """

    processes: int | None = None

    def __post_init__(self) -> None:
        _check("Batch", processes=self.processes)


@dataclass(frozen=True)
class Context:
    """Divide the tokens of a transformer.

    ulysses: so many processes exchange tokens for heads around each attention; None for all that are left. ring: so
    many pass keys and values on. Both together use ulysses * ring processes.
    """

    ulysses: int | None = None
    ring: int = 1

    def __post_init__(self) -> None:
        _check("Context", ulysses=self.ulysses, ring=self.ring)


Plan = Guidance | Batch | Context
PLANS: dict[str, type[Plan]] = {"guidance": Guidance, "context": Context, "batch": Batch}


@dataclass(frozen=True)
class Division:
    """Plans with their numbers of processes. unit: None where passes are not divided."""

    unit: Unit | None
    mesh: Mesh

    @classmethod
    def of(cls, plans: "tuple[Any, ...]", size: int) -> "Division":
        """The division of `size` processes by one or two plans, or their names.

        Raises:
            ConfigError: an unknown plan, two that exclude each other, or another number of processes.
        """
        made = [plan_of(plan) for plan in plans]
        passes = [plan for plan in made if not isinstance(plan, Context)]
        contexts = [plan for plan in made if isinstance(plan, Context)]
        if not made or len(passes) > 1 or len(contexts) > 1:
            got = ", ".join(type(plan).__name__ for plan in made) or "none"
            raise ConfigError(
                f'parallel: needs one plan, or "context" beside "guidance" or "batch". Got {got}. With "batch" passes '
                "are divided too."
            )
        shared, context = (passes or [None])[0], (contexts or [None])[0]
        mesh = _mesh(shared, context, size)
        if mesh.size != size:
            used = " x ".join(str(n) for n in (mesh.passes, mesh.ring, mesh.heads) if n > 1) or "1"
            raise ConfigError(f"parallel: the plan is for {used} processes, and there are {size}. Use all of them.")
        return cls(None if shared is None else "pass" if isinstance(shared, Guidance) else "row", mesh)


def _mesh(shared: Guidance | Batch | None, context: Context | None, size: int) -> Mesh:
    if shared is None:
        assert context is not None
        return Mesh(1, context.ring, context.ulysses or max(size // context.ring, 1))
    if context is None:
        return Mesh(shared.processes or size)
    fixed = context.ring * (context.ulysses or 1)
    count = shared.processes or (2 if context.ulysses is None else max(size // fixed, 1))
    return Mesh(count, context.ring, context.ulysses or max(size // (count * context.ring), 1))


def plan_of(plan: Any) -> Plan:
    """A plan, or the one of a name. ConfigError for anything else."""
    if isinstance(plan, Guidance | Batch | Context):
        return plan
    if isinstance(plan, str) and plan in PLANS:
        return PLANS[plan]()
    hint = did_you_mean(plan, PLANS) if isinstance(plan, str) else f"Pass one of {', '.join(PLANS)}, or a value."
    raise ConfigError(f"parallel: needs a plan, got {value_text(plan)}. {hint}")
