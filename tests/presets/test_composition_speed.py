"""Every engine, step cache and attention backend with guiders, control, adapters, quantization, batches and more.

Each cell is compared with the same call in eager float32, on tiny models; see composition.py beside this file. The
default run has each row and each column at least once, and `SFUMATO_EVERY=1` all cells. The
compiler of "compile" and "max" runs traced operations as they are, and a recorder of the tests replays forwards on the
CPU: both are the code that a GPU runs, without the kernels.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import Graph, InputError, Outputs, SfumatoError, WireError
from sfumato.blocks.control.controlnet import ApplyControlNet
from sfumato.blocks.control.image_prompt import ImagePrompt
from sfumato.blocks.control.t2i_adapter import ApplyT2IAdapter
from sfumato.blocks.control.taps import ApplyTap
from sfumato.components.engines.engine import Engine
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.registry import attention_backends

from ..engines.conftest import CONFIG, Recorder, lora
from .composition import RUNS, WRITING, Outcome, on_page, shown, table_text, write
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .test_composition import CACHES, PRESETS
from .test_composition import pixart as pixart
from .test_pixart import folder as folder

EVERY = WRITING or bool(os.environ.get("SFUMATO_EVERY"))
V = TypeVar("V")
TORCH = "torch"
"""The engine cannot run this call, so torch runs it."""
PARTLY = "partly"
"""Torch runs some blocks or some steps."""
STEPS = 3


def engines() -> Mapping[str, Engine]:
    """One engine of each name, as this machine can run it."""
    compiled = sf.engines.Compile(backend="eager")
    return {
        "compile": compiled, "fused": sf.engines.Fused(), "graphs": sf.engines.Graphs(recorder=Recorder()),
        "max": sf.engines.Max(compiled=compiled, recorder=Recorder()), "openvino": sf.engines.OpenVINO(),
    }  # fmt: skip


def some(rows: Mapping[str, V], number: int, columns: int) -> Sequence[tuple[str, V]]:
    """The rows that a column is tested with: each row with one column. With `SFUMATO_EVERY=1` all with all."""
    return [pair for i, pair in enumerate(rows.items()) if EVERY or i % columns == number]


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a fraction of the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


# ------------------------------------------------------------------------------------------------ what it is run with
Outs = Sequence[Outputs]
"""What the runs of a call gave."""
With = Callable[[Graph], Outs]


@cache
def unet() -> UNet2DConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**CONFIG).eval().requires_grad_(False)


@cache
def conditioning() -> Mapping[str, Any]:
    """The encoded prompts, so that no text encoder runs."""
    made = sf.load("emoji").only("positive", "negative")(prompt="a fish")
    return {"positive": made.positive, "negative": made.negative}


@cache
def plain() -> Graph:
    return sf.load("emoji").only("latents").bind(unet=unet())


def call(pipe: Graph, **more: Any) -> Outs:
    return [pipe(**{**conditioning(), "seed": 3, "num_inference_steps": STEPS, **more})]


def latents(outs: Outs) -> Tensor:
    return torch.cat([one.latents for one in outs])


def calling(**more: Any) -> With:
    return lambda pipe: call(pipe, **more)


@cache
def random_net(kind: str, **more: Any) -> Any:  # a net of this class
    config = {k: v for k, v in CONFIG.items() if k[:2] != "up" and k not in ("out_channels", "sample_size")}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        keys = {"channels": [16], "num_res_blocks": 1} if kind == "T2IAdapter" else {
            **config, "conditioning_embedding_out_channels": [8, 8, 8, 8],
        }  # fmt: skip
        net = getattr(sf.models, kind)(**keys)
        for parameter in net.parameters():
            parameter.data = torch.randn(parameter.shape) * 0.1
    return net.eval().requires_grad_(False)


PICTURE = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


def controlled(pipe: Graph) -> Outs:
    steered = pipe.insert("control", ApplyControlNet(), before="denoise.guider")
    return call(steered.bind(controlnet=random_net("ControlNetModel")), control_image=PICTURE)


def adapted(pipe: Graph) -> Outs:
    steered = pipe.insert("control", ApplyT2IAdapter(), before="denoise.guider")
    return call(steered.bind(adapter=random_net("T2IAdapter")), adapter_image=PICTURE)


def with_image_prompt(pipe: Graph) -> Outs:
    reading: list[Any] = [unet().get_submodule(path) for path in unet().numbered_attention()[1::2]]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        channels = [layer.to_q.out_features for layer in reading]
        adapter = sf.models.ImagePromptAdapter(image_width=16, token_width=128, channels=channels)
    pipe = pipe.insert("image", ImagePrompt(), before="denoise.guider").bind(ip_adapter=adapter.requires_grad_(False))
    return call(pipe, ip_adapter_image_embeds=torch.linspace(-2, 2, 16)[None])


def with_tap(pipe: Graph) -> Outs:
    return call(pipe.insert("tap", ApplyTap(change=sf.taps.FreeU(b1=1.5, b2=1.6)), before="denoise.guider"))


def together(pipe: Graph) -> Outs:
    same = {**conditioning(), "num_inference_steps": STEPS}
    runs = [pipe.stream(**same, seed=1), pipe.stream(**same, seed=2, scheduler="euler_a")]
    sf.together(runs)
    return [run.outputs for run in runs]


def two_prompts(pipe: Graph) -> Outs:
    rows = {name: value.expand(2, 1) for name, value in conditioning().items()}
    return call(pipe, **rows, seed=[1, 2])


@cache
def quantized(folder: Path) -> Any:  # a handle
    unet().save_pretrained(folder)
    return sf.load("emoji", unet=str(folder), quantization={"unet": "int8_weight_only"}).bindings["unet"]


WITH: Mapping[str, With] = {
    "ClassifierFreeGuidance": calling(),
    "AdaptiveProjectedGuidance": calling(guider="AdaptiveProjectedGuidance"),
    "NoGuidance": lambda pipe: [
        pipe(positive=conditioning()["positive"], seed=3, num_inference_steps=STEPS, guider="none")
    ],
    "PerturbedAttentionGuidance": calling(guider="PerturbedAttentionGuidance"),
    "SkipLayerGuidance": calling(guider="SkipLayerGuidance"),
    "ControlNet": controlled,
    "T2I-Adapter": adapted,
    "LoRA": lambda pipe: call(pipe, adapters=[lora(unet(), 1)]),
    "LoRA in half of the steps": lambda pipe: call(pipe, adapters=[lora(unet(), 1).during(0, 0.5)]),
    "image prompt": with_image_prompt,
    "FreeU": with_tap,
    "two prompts": two_prompts,
    "two runs side by side": together,
    **{name: lambda pipe, name=name: call(pipe.cached(name, **CACHES[name])) for name in CACHES},
}
BACKENDS = [name for name in attention_backends if name != "flex"]
"""Without the one that compiles for ten seconds; tests/attention runs it."""
QUANTIZED = "8-bit weights (torchao)"


@cache
def expected(name: str) -> Tensor:
    return latents(WITH[name](plain()))


def refusal(error: SfumatoError) -> Outcome:
    known = isinstance(error, WireError | InputError)
    return error.problems[0].code if known else type(error).__name__, str(error)


# ------------------------------------------------------------------------------------------------------------- engines
def by_engine(run: Callable[[], Outs], fast: Graph, component: str, eager: Tensor) -> Outcome:
    """What an engine did of a call, whose result is that of torch within the tolerance.

    The tolerance is that of a forward, for three steps of a scheduler. Runs side by side sum in another order with any
    engine.
    """
    engine, report = sf.engines.report(fast)[component]
    ran, by_torch = report.ran, sum(report.fell_back.values())
    found = latents(run())
    ran, by_torch = report.ran - ran, sum(report.fell_back.values()) - by_torch
    assert difference(found, eager) <= max(10 * engine.tolerance, 1e-5)
    if isinstance(engine, sf.engines.Fused):  # it has layers in place of programs
        return RUNS, ""
    assert ran or by_torch
    return (PARTLY if ran and by_torch else RUNS if ran else TORCH), ""


@pytest.mark.parametrize("name", engines())
def test_engines_with_everything_else(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    engine = engines()[name]
    fast = plain().optimize(engine, "unet")
    cells = dict[str, Outcome]()
    number = [*engines()].index(name)
    for row, run in some(WITH, number, len(engines())):
        try:
            eager = expected(row)
        except SfumatoError as error:
            cells[row] = refusal(error)
            continue
        cells[row] = by_engine(lambda run=run: run(fast), fast, "unet", eager)
    narrow = plain().bind(unet=quantized(tmp_path_factory.getbasetemp() / "unet in 8 bits"))
    others = {QUANTIZED: narrow, "attention='math'": plain().using(attention="math"),
              "attention='sliced'": plain().using(attention="sliced")}  # fmt: skip
    for row, pipe in some(others, number, len(engines())):
        try:
            made = pipe.optimize(engine, "unet")
        except SfumatoError as error:
            cells[row] = refusal(error)
        else:
            cells[row] = by_engine(lambda made=made: call(made), made, "unet", latents(call(pipe)))
    compare("Engines with everything else", name, cells)


FAMILIES = [name for name, preset in PRESETS.items() if preset.task == "text2image" and ", " not in name]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_engine_runs_the_denoiser_of_every_family(name: str, request: pytest.FixtureRequest) -> None:
    preset = PRESETS[name]
    pipe = request.getfixturevalue(preset.fixture)(preset.checkpoint, preset.task).only("latents")
    values = {"prompt": "a cat", "seed": 0, "num_inference_steps": 2, **preset.inputs}
    (denoiser,) = {"unet", "transformer"} & pipe.bindings.keys()
    eager, cells, memo = pipe(**values).latents, dict[str, Outcome](), sf.memo()
    number = FAMILIES.index(name)
    for title, engine in some(engines(), number, len(FAMILIES)):
        fast = pipe.optimize(engine, denoiser)
        cells[title] = by_engine(lambda fast=fast: [fast(**values, memo=memo)], fast, denoiser, eager)
    compare("Engines", name.partition(" ")[0], cells)
    backends = dict[str, Outcome]()
    for backend, _ in some(dict.fromkeys(BACKENDS), number, len(FAMILIES)):
        try:
            found = pipe(**values, memo=memo, attention=backend).latents
        except SfumatoError as error:
            backends[backend] = refusal(error)
            continue
        assert difference(found, eager) <= 1e-5
        backends[backend] = RUNS, ""
    compare("Attention backends", name.partition(" ")[0], backends)


# --------------------------------------------------------------------------------------------------------- step caches
@pytest.mark.parametrize("name", [name for name in CACHES if name != "TeaCacheConfig"])
def test_step_caches_with_everything_else(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each full prediction is computed too, and the cached one is nearer to it than nothing would be. The weights are
    random and the steps are three, so most methods are far from it."""
    cells = dict[str, Outcome]()
    narrow = quantized(tmp_path_factory.getbasetemp() / "unet in 8 bits")
    rows = {**{row: run for row, run in WITH.items() if row not in CACHES}, QUANTIZED: calling()}
    for row, run in some(rows, [*CACHES].index(name), len(CACHES)):
        pipe = plain().bind(unet=narrow) if row == QUANTIZED else plain()
        try:
            outs = run(pipe.cached(name, estimate_error=True, **CACHES[name]))
        except SfumatoError as error:
            cells[row] = refusal(error)
            continue
        assert latents(outs).isfinite().all() and all(out.skipped.error < 1 for out in outs)
        cells[row] = RUNS, ""
    compare("Step caches with everything else", name, cells)


# -------------------------------------------------------------------------------------------------- attention backends
HERE = ("flash", "math", "sliced")


@pytest.mark.parametrize("name", HERE)
def test_attention_backends_with_everything_else(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Those of this machine, without torch's own choice."""
    cells = dict[str, Outcome]()
    narrow = plain().bind(unet=quantized(tmp_path_factory.getbasetemp() / "unet in 8 bits"))
    for row, run in some({**WITH, QUANTIZED: calling()}, HERE.index(name), len(HERE)):
        pipe = narrow if row == QUANTIZED else plain()
        try:
            eager = latents(call(narrow)) if row == QUANTIZED else expected(row)
            found = latents(run(pipe.using(attention=name)))
        except SfumatoError as error:
            cells[row] = refusal(error)
            continue
        assert difference(found, eager) <= 1e-4
        cells[row] = RUNS, ""
    compare("Attention backends with everything else", name, cells)


# ------------------------------------------------------------------------------------------------------------ the page
def compare(title: str, column: str, cells: Mapping[str, Outcome]) -> None:
    if not WRITING:
        assert {row: shown(title, row, column) for row in cells} == {row: cell for row, (cell, _) in cells.items()}
        return
    columns = {**on_page(title), column: {row: cell for row, (cell, _) in cells.items()}}
    rows = {row: [found.get(row, "") for found in columns.values()] for row in cells}
    reasons = {cell: text for cell, text in cells.values() if text}
    write({title: table_text(title, list(columns), rows)}, reasons)
