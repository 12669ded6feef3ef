"""The packages of OpenVINO, imported without the one that sends usage statistics."""

import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...graph.errors import ConfigError

_TELEMETRY = "openvino_telemetry"


def openvino() -> Any:  # the module
    """OpenVINO with its converter. In a process that has not imported it before, it sends no usage statistics.

    Its converter would fork a process for each message, and write files into the user's home.
    """
    with _without_telemetry():
        import_module("openvino.tools.ovc")
        return import_module("openvino")


@cache
def core() -> Any:  # an openvino.Core
    """The one core of this process, which makes and reads all models.

    The CPU device of a core gives the thread another stack for signals, and frees it with the core. Where cores end in
    another order than they began, a stack that is freed stays in use, and Ctrl-C then ends the process.
    """
    return openvino().Core()


def traced(module: Any, examples: Sequence[Any]) -> Any:  # a module and tensors; what `convert_model` reads
    """A traced module. The converter by itself would trace it a second time, to compare."""
    with _without_telemetry():
        decoder: Any = import_module("openvino.frontend.pytorch.ts_decoder").TorchScriptPythonDecoder
    return decoder(module, example_input=tuple(examples), trace_kwargs={"check_trace": False})


def nncf() -> Any:  # the module
    """NNCF, which narrows weights; it logs errors alone, and sends nothing, as above."""
    with _without_telemetry():
        module: Any = import_module("nncf")
    module.set_log_level(logging.ERROR)
    return module


def require(package: str) -> None:
    """Raise ConfigError for a package that is not installed."""
    try:
        version(package)
    except PackageNotFoundError:
        raise ConfigError(
            f"openvino: needs the package {package}. Install it: pip install sfumato[openvino]."
        ) from None


@contextmanager
def _without_telemetry() -> Generator[None]:
    """Let imports find no telemetry package; OpenVINO and NNCF then use stubs of their own."""
    if _TELEMETRY in sys.modules:  # the program has imported it itself
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  Python's way to refuse an import
    try:
        yield
    finally:
        sys.modules.pop(_TELEMETRY, None)
