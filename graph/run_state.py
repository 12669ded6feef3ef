"""`RunState`: a run that was stopped, as a value. It is saved into a folder, and `sf.resume` goes on from it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .edits import edited
from .errors import GraphFileError, LoadError, Problem, SaveError, UnfitValue
from .fields import Lazy
from .json_text import JsonTextError, pretty, read
from .keywords import ADAPTERS, Call
from .rewrites import adapt, attend, swap
from .saving import saving_folder
from .state import Moment, State
from .stored import NotStored, Stored, read_file, restore, store, write_file
from .structure import Structure

STATE_FILE = "state.json"
_FORM = "sfumato run state 1"
_VALUES = "values.safetensors"


@dataclass(frozen=True, eq=False)
class RunState:
    """A run that was stopped: its graph, the values of its call, and its progress.

    `run.state` and `run.pause()` give it, and `sf.resume(state, **changes)` goes on from it. A change of the run later
    does not change it.
    """

    graph: Any
    """The graph that was called, with the components, slots, adapters and attention of the call."""
    values: Mapping[str, Any]
    """The values of the call."""
    reached: State
    history: tuple[Moment, ...] = field(default=(), repr=False)
    """The progress after earlier steps. A file has none."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Components and values that a file could not have, by name, with their kinds: pass them to `sf.resume`."""

    @classmethod
    def of(cls, call: Call, state: State, history: tuple[Moment, ...]) -> "RunState":
        """The state of a run of this call."""
        return cls(adapt(attend(swap(call.graph, call), call), call), dict(call.values), state.copy(), history)

    def __repr__(self) -> str:
        loops = "".join(f", {loop}: step {turn}" for loop, (turn, _) in self.reached.turns.items())
        return f"RunState(done: {', '.join(self.reached.done) or 'nothing'}{loops})"

    @property
    def steps(self) -> dict[str, tuple[int, ...]]:
        """The steps that `at` accepts, by the path of the loop: numbers of turns that it has done."""
        found: dict[str, set[int]] = {}
        for loop, turn, *_ in self.history:
            found.setdefault(loop, set()).add(turn)
        for loop, (turn, _) in self.reached.turns.items():
            found.setdefault(loop, set()).add(turn)
        return {loop: tuple(sorted(turns)) for loop, turns in found.items()}

    def at(self, step: int, loop: str | None = None) -> "RunState":
        """The state when a loop had done `step` turns.

        A run keeps the values of earlier steps up to 256 MiB; beyond it, every second step is dropped. A state from a
        file has its own step alone.

        Args:
            step: a number of turns, from 0. A solver of second order takes two turns for a whole step.
            loop: the path of the loop; by default the one that took the last turn. In a loop that ran several times,
                the last time counts.

        Raises:
            UnfitValue: a step that is not kept. The text has those that are.
        """
        loop = loop or (self.history[-1].loop if self.history else next(iter(self.reached.turns), ""))
        if self.reached.turns.get(loop, (-1,))[0] == step:
            return self
        for place in range(len(self.history) - 1, -1, -1):
            moment = self.history[place]
            if moment.loop == loop and moment.turn == step:
                return replace(self, reached=moment.state.copy(), history=self.history[: place + 1])
        kept = "; ".join(f"of {path}: {_ranges(turns)}" for path, turns in self.steps.items())
        what = f"step {step} of {loop!r}" if loop else f"step {step}"
        raise UnfitValue(f"The state has no {what}. It has {f'the steps {kept}' if kept else 'no steps'}.")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it into a folder, whole or not at all, beside the `graph.json` of its graph. Gives the folder.

        Components are written by their specs, without weights; adapters with theirs. Components that were bound as
        objects, lists of adapters for each prompt, and values that a file cannot have, are named in the file and are
        passed to `sf.resume` again. Finished nodes with such outputs run again.

        Raises:
            GraphFileError: a graph that a file cannot hold.
            SaveError: a loop that carries a value that a file cannot have; a folder that cannot be written.
        """
        from .files.forms import FILE_NAME  # here, since pydantic costs start-up time
        from .files.writing import write

        place = Path(folder)
        missing = dict(self.missing)
        nameless = {name: value for name, value in self.graph.bindings.items() if not _is_named(value)}
        missing |= {name: type(value).__name__ for name, value in nameless.items()}
        graph = self.graph
        if graph.adapters is not None and graph.adapters.prompts > 1:  # a graph file has one list
            missing[ADAPTERS] = f"lists of adapters for {graph.adapters.prompts} prompts"
            graph = edited(graph, adapters=None)
        if nameless:
            graph = edited(graph, bindings={n: v for n, v in graph.bindings.items() if n not in nameless})
        values: dict[str, Stored] = {}
        for name, value in self.values.items():
            try:
                values[f"input {name}"] = store(value)
            except NotStored:
                missing[name] = type(value).__name__
        values |= self._stored_state()
        content = {
            "format": _FORM,
            "steps": {loop: turn for loop, (turn, _) in self.reached.turns.items()},
            "missing": missing,
            "origins": self.reached.origins,
        }
        with saving_folder(place) as draft:
            write(graph, draft, str(place / FILE_NAME))
            write_file(draft.path / _VALUES, _FORM, values, {})
            (draft.path / STATE_FILE).write_text(pretty(content) + "\n", encoding="utf-8", newline="\n")
        return place

    def _stored_state(self) -> dict[str, Stored]:
        values: dict[str, Stored] = {}
        for node, outputs in self.reached.done.items():
            try:
                values[f"done {node}"] = store(outputs)
            except NotStored:
                continue  # it runs again
        for kind, parts in (("turns", self.reached.turns), ("memory", self.reached.memory)):
            for path, part in parts.items():
                try:
                    values[f"{kind} {path}"] = store(dict(part) if isinstance(part, dict) else (part[0], dict(part[1])))
                except NotStored as error:
                    text = f"{path}: carries {error}, which a file cannot have. Pause the run outside of this loop."
                    raise SaveError(text) from None
        return values

    @classmethod
    def load(cls, folder: str | os.PathLike[str], graph: Structure, packages: frozenset[str]) -> "RunState":
        """Read what `save` wrote, for its graph. Nothing of the file is run, and only classes of `packages` are made.

        Raises:
            LoadError: files that are missing or broken, or of another version.
        """
        place = Path(folder)
        try:
            content = read(place / STATE_FILE, "graph_bytes")
            if content["format"] != _FORM:
                raise JsonTextError(f"is of the format {content['format']!r}, and {_FORM!r} is read.")
            missing = {str(name): str(kind) for name, kind in content["missing"].items()}
            origins = {str(name): str(key) for name, key in content["origins"].items()}
            stored, _ = read_file(place / _VALUES, _FORM)
            values: dict[str, dict[str, Any]] = {"input": {}, "done": {}, "turns": {}, "memory": {}}
            for key, value in stored.items():
                kind, _, name = key.partition(" ")
                values[kind][name] = restore(value, packages)
            state = State(values["done"], values["turns"], values["memory"], origins)
            _check_state(state)
        except FileNotFoundError as error:
            raise LoadError(
                f"{place}: has no state of a run ({error.filename}). state.save(folder) writes one."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise LoadError(f"{place}: its state of a run cannot be read: {reason}") from error
        return cls(graph, values["input"], state, (), missing)

    def complete(self, passed: Mapping[str, Any]) -> "RunState":
        """This state with the components and values that its file could not have. `LoadError` if some are missing."""
        if not self.missing:
            return self
        if lost := [Problem("missing", name, kind) for name, kind in self.missing.items() if name not in passed]:
            names = ", ".join(f"{p.place} ({p.message})" for p in lost)
            again = ", ".join(f"{p.place}=…" for p in lost)
            raise LoadError(f"The state was saved without {names}. Pass it again: sf.resume(folder, {again}).")
        components = {name: passed[name] for name in self.missing if name in self.graph.components}
        values = {name: passed[name] for name in self.missing if name not in components and name != ADAPTERS}
        graph = self.graph.bind(components) if components else self.graph
        if ADAPTERS in self.missing:
            graph = adapt(graph, Call(graph, {}, {}, adapters=passed[ADAPTERS]))
        return replace(self, graph=graph, values={**self.values, **values}, missing={})


def _is_named(value: Any) -> bool:  # a component
    """Whether a graph file can name a component without its weights."""
    if isinstance(value, Lazy):
        try:
            value.to_json()
        except GraphFileError:
            return False
        return True
    return value is None or (not hasattr(value, "state_dict") and hasattr(value, "to_config"))


def _check_state(state: State) -> None:
    """Raise ValueError where values of a file are not of the form of a progress."""
    for part in (state.done, state.memory):
        if not all(type(values) is dict for values in part.values()):
            raise ValueError("its values of nodes are not by name")
    for turn in state.turns.values():
        match turn:
            case (int(count), dict()) if count >= 0:
                pass
            case _:
                raise ValueError("its turns are not numbers with values")


def _ranges(turns: tuple[int, ...]) -> str:
    """Numbers in order, as "0 to 5, 7, 9"."""
    parts: list[list[int]] = []
    for turn in turns:
        if parts and turn == parts[-1][-1] + 1:
            parts[-1].append(turn)
        else:
            parts.append([turn])
    return ", ".join(f"{p[0]} to {p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)
