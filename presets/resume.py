"""`sf.resume`: a run that goes on from the state of another one, in this process or from a folder."""

from pathlib import Path
from typing import Any

from ..components.manager import ComponentsManager
from ..components.saved_values import value_packages
from ..components.storage.hub import Access
from ..graph import ConfigError, Graph, GraphFileError, LoadError, Run
from ..graph.files.faults import reads_files
from ..graph.resuming import resumed
from ..graph.run_state import STATE_FILE, RunState
from .load import load


@reads_files
def resume(
    x: RunState | str | Path,
    *,
    graph: Graph | None = None,
    manager: ComponentsManager | None = None,
    device: Any = None,  # what torch.device takes
    access: Access | None = None,
    trust_remote_code: bool | str = False,
    **changes: Any,
) -> Run:
    """A run that goes on from a state: `sf.resume(run.state).result()`, `sf.resume("folder").start()`.

    Finished nodes do not run again, and loops go on with their next turn. Changes are keywords of a call, such as
    another prompt, guider, scheduler or adapters: nodes that have finished run again where a change reaches them and
    their outputs are still needed; a loop keeps what it has carried, and its next turns see the change.

    Another scheduler goes on where its schedule has a step at the noise level that is reached; its history is empty
    then, as in a first step.

    Args:
        x: a state, or a folder that `state.save` wrote. A folder from a stranger is as safe to read as a graph file.
        graph: a graph in place of the one that was called, such as `pipe.replace("decode", MendedDecode())`. Where the
            graph of a folder cannot be read, its blocks count as those of this one.
        manager, device, access, trust_remote_code: for a folder, as in `sf.load`.
        changes: keywords of a call; and components and values that the file could not have.

    Raises:
        InputError: changes that do not fit, that would change what is done already, or that nothing reads any more.
        LoadError: a folder without a state, or one that cannot be read.
    """
    if isinstance(x, RunState):
        settings = {"manager": manager, "device": device, "access": access}
        if unused := [name for name, value in settings.items() if value is not None]:
            raise ConfigError(f"{', '.join(unused)}: goes with a folder. The state has its components.")
        return resumed(x, changes, graph)
    if not (Path(x) / STATE_FILE).is_file():
        raise LoadError(f"{x}: has no state of a run ({STATE_FILE}). state.save(folder) writes one.")
    try:
        saved = load(x, manager=manager, device=device, access=access, trust_remote_code=trust_remote_code)
    except (GraphFileError, LoadError):
        if graph is None:
            raise
        saved = graph
    return resumed(RunState.load(x, saved, value_packages()), changes, graph)
