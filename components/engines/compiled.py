"""torch.compile of the blocks that a model repeats."""

import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn

from ...graph.errors import ConfigError
from ..models.views import Replacement, shallow_copy, view
from .engine import DENOISERS, Candidate, Engine
from .layer import engine_class
from .programs import Programs
from .tree import changes

CompileShapes = Literal["automatic", "fixed", "dynamic"]
"""`"automatic"`: for the first shape alone, and at a second one for all shapes. `"fixed"`: again for each shape.
`"dynamic"`: for all shapes at once."""

_MOST_FORMS = 64  # of one block: a U-Net has up to 20 residual blocks of other widths


@dataclass(frozen=True)
class Compile(Engine):
    """Compile the blocks that a model repeats, and leave the rest to torch. Equal blocks share one artefact.

    The first call takes 5 to 60 seconds, and less where artefacts are read. Adapters, strengths, guiders, schedulers,
    steps and seeds compile nothing again. shapes: see `CompileShapes`. autotune: try several kernels for each product,
    which takes minutes. backend: torch's name of the compiler. cache: a folder for artefacts, so that another process
    reads them; None for that of torch (`TORCHINDUCTOR_CACHE_DIR`). Artefacts are code that runs: use a folder of your
    own.

    Raises:
        ConfigError: a setting that is none of these.
    """

    name: ClassVar[str] = "compile"
    shapes: CompileShapes = "automatic"
    autotune: bool = False
    backend: str = "inductor"
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        if self.shapes not in get_args(CompileShapes):
            raise ConfigError(
                f"compile: shapes needs one of {', '.join(get_args(CompileShapes))}. Got {self.shapes!r}."
            )
        if self.backend not in (known := torch.compiler.list_backends(exclude_tags=())):
            raise ConfigError(f"compile: backend needs one of {', '.join(known)}. Got {self.backend!r}.")

    @property
    def tolerance(self) -> float:
        """1e-4 in float32: a compiled block sums in another order."""
        return 1e-4

    @property
    def key(self) -> str:
        """Its settings without the cache."""
        return repr(replace(self, cache=None))

    def chosen(self, candidate: Candidate) -> bool:
        """The denoiser, which runs at every step."""
        return candidate.is_model and candidate.name in DENOISERS

    def view(self, model: nn.Module, programs: Programs) -> nn.Module:
        """A view whose repeated blocks are compiled."""
        compiler = programs.keep(_Compiler, lambda: _Compiler(self, programs))
        return view(model, {path: compiler.block(path) for path in repeated_blocks(model)})


def repeated_blocks(model: nn.Module) -> Iterator[str]:
    """The paths of the blocks that a model repeats: the innermost members of its module lists."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for name, member in module.named_children():
                is_layer = type(member).__module__.startswith("torch.") or not any(True for _ in member.parameters())
                if not is_layer and not any(isinstance(part, nn.ModuleList) for part in member.modules()):
                    yield f"{path}.{name}"


class _Compiler:
    """The compiled forwards of one component, by class. Blocks of one class share one, and so torch's artefacts."""

    def __init__(self, engine: Compile, programs: Programs) -> None:
        self.engine, self.programs = engine, programs
        self._forwards: dict[type[nn.Module], Callable[..., Any]] = {}

    def block(self, path: str) -> Replacement:
        """A change that compiles a block."""

        def change(module: nn.Module) -> nn.Module:
            kind = type(module)
            if kind not in self._forwards:
                self._forwards[kind] = self._compiled(kind)
            twin = shallow_copy(module, engine_class(CompiledBlock, kind))
            twin.__dict__["engine_site"] = CompiledSite(path, self._forwards[kind], self.programs, twin)
            return twin

        return change

    def _compiled(self, kind: type[nn.Module]) -> Callable[..., Any]:
        dynamic = {"automatic": None, "fixed": False, "dynamic": True}[self.engine.shapes]
        compile_function: Any = torch.compile  # its overloads know no function as backend
        limits = {} if "recompile_limit" not in signature(torch.compile).parameters else {
            "recompile_limit": _MOST_FORMS, "isolate_recompiles": True,
        }  # fmt: skip
        return compile_function(kind.forward, backend=self._backend, dynamic=dynamic, **limits)

    def _backend(self, graph: Any, inputs: Any) -> Any:  # torch's protocol of backends
        hits = torch._dynamo.utils.counters["inductor"]
        before = hits["fxgraph_cache_hit"]
        with artefacts_in(self.engine.cache):
            made = self._lower(graph, inputs)
        if hits["fxgraph_cache_hit"] > before:
            self.programs.report.read += 1
        else:
            self.programs.report.made += 1
        return made

    @cached_property
    def _lower(self) -> Callable[..., Any]:
        if self.engine.backend != "inductor":
            return torch._dynamo.lookup_backend(self.engine.backend)
        from torch._inductor.compile_fx import compile_fx

        options: Mapping[str, Any] = {}
        if self.engine.autotune:
            options = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
        return partial(compile_fx, config_patches=dict(options))


_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def artefacts_in(folder: str | Path | None) -> Generator[None]:
    """Let torch read and write artefacts in a folder. None: leave the choice to torch.

    Torch looks the folder up in the environment of the process, which is as before afterwards.
    """
    if folder is None:
        yield
        return
    with _ONE_AT_A_TIME:
        before = os.environ.get(_FOLDER)
        os.environ[_FOLDER] = str(Path(folder).absolute())
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FOLDER]
            else:
                os.environ[_FOLDER] = before


class CompiledSite:
    """A compiled block, shared by all views of it."""

    def __init__(self, path: str, forward: Callable[..., Any], programs: Programs, known: nn.Module) -> None:
        self.path, self.forward, self.programs, self.known = path, forward, programs, known

    def compiled(self, block: nn.Module) -> bool:
        """Whether a view of the block has layers that may be compiled: those of the model, or with patches of LoRA."""
        if block is self.known:
            return True
        if (found := block.__dict__.get("engine_changes")) is None:
            found = block.__dict__["engine_changes"] = block, changes(self.known, block)
        owner, seen = found
        if owner is not block:  # a view of a view copied it
            seen = changes(self.known, block)
            block.__dict__["engine_changes"] = block, seen
        return not seen.other

    def __deepcopy__(self, memo: object) -> "CompiledSite":
        return self


class CompiledBlock(nn.Module):
    """A block whose forward is compiled; the first of the classes that such a block inherits from."""

    engine_site: CompiledSite

    def forward(self, *args: Any, **named: Any) -> Any:  # as the block's own forward
        """The output of the block."""
        site = self.engine_site
        if any(isinstance(arg, torch.Tensor) and arg.is_meta for arg in args):
            return super().forward(*args, **named)
        if not site.compiled(self):
            site.programs.fall_back(f"the call changes layers of {site.path}")
            return super().forward(*args, **named)
        site.programs.report.ran += 1
        return site.forward(self, *args, **named)
