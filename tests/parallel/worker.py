"""A program of several processes: each case as one process computes it, and as all compute it together with gloo.

Its argument is the folder of the results, a file for each process.
"""

import json
import os
import re
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from typer.testing import CliRunner

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.denoise.caches import CacheSteps
from sfumato.blocks.denoise.flux import PredictFlow as PredictFlux
from sfumato.blocks.denoise.pixart import PredictNoise as PredictPixArt
from sfumato.blocks.denoise.sd3 import PredictFlow as PredictSD3
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.components.adapters.reading import adapter_of
from sfumato.components.conditioning import (
    Conditioning,
    FluxConditioning,
    PixArtConditioning,
    SD3Conditioning,
    SDXLConditioning,
)
from sfumato.components.engines.programs import Programs
from sfumato.components.kernels.table import AUTOMATIC
from sfumato.components.models.attention import AttentionCore
from sfumato.components.models.views import shallow_copy, view
from sfumato.components.parallel.engine import Parallel
from sfumato.components.parallel.plans import Division
from sfumato.components.taps.perturb import Identity
from sfumato.components.taps.tap import NO_TAPS, Tap, Taps
from sfumato.components.types import Pass, PredictFunction
from sfumato.presets.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "parallel.md"
UNET: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "sample_size": 8, "block_out_channels": [16], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
    "norm_num_groups": 8, "attention_head_dim": 2, "cross_attention_dim": 128,
}  # fmt: skip
SDXL: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64], "sample_size": 8, "cross_attention_dim": 24,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [2, 4], "norm_num_groups": 8, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64,
}  # fmt: skip
FLUX: dict[str, Any] = {
    "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 24, "pooled_projection_dim": 20, "axes_dims_rope": [4, 6, 6],
}  # fmt: skip
SD3: dict[str, Any] = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "num_layers": 4, "attention_head_dim": 8,
    "num_attention_heads": 4, "joint_attention_dim": 24, "caption_projection_dim": 32, "pooled_projection_dim": 20,
    "pos_embed_max_size": 12, "qk_norm": "rms_norm", "dual_attention_layers": [0, 1],
}  # fmt: skip
PIXART: dict[str, Any] = {
    "sample_size": 8, "num_layers": 3, "attention_head_dim": 12, "num_attention_heads": 4, "cross_attention_dim": 48,
    "caption_channels": 32, "use_additional_conditions": False,
}  # fmt: skip


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(name: str, config: dict[str, Any]) -> Any:
    made: nn.Module = getattr(sf.models, name).from_config(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made


def conditioning(family: str, seed: int, rows: int) -> Conditioning:
    tokens = noise(seed, rows, 5, 32 if family == "pixart" else 24)
    match family:
        case "sdxl":
            return SDXLConditioning(tokens, noise(seed + 1, rows, 16), torch.full((rows, 6), 64.0))
        case "sd3":
            return SD3Conditioning(tokens, noise(seed + 1, rows, 20))
        case "flux":
            return FluxConditioning(tokens, noise(seed + 1, rows, 20))
        case _:
            return PixArtConditioning(tokens, torch.tensor([[1.0, 1, 1, 1, 0]]).expand(rows, 5))


FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "sdxl": ("UNet2DConditionModel", SDXL, "DDIMScheduler"),
    "sd3": ("SD3Transformer2DModel", SD3, "FlowMatchEulerDiscreteScheduler"),
    "flux": ("FluxTransformer2DModel", FLUX, "FlowMatchEulerDiscreteScheduler"),
    "pixart": ("PixArtTransformer2DModel", PIXART, "DDIMScheduler"),
}


def predict_of(family: str, made: Any) -> PredictFunction:
    block: Any = {
        "sdxl": lambda: PredictNoise(unet=made),
        "sd3": lambda: PredictSD3(transformer=made),
        "flux": lambda: PredictFlux(transformer=made, guidance_scale=None),
        "pixart": lambda: PredictPixArt(transformer=made),
    }[family]()
    return block().predict


def lora(unet: nn.Module, seed: int) -> Any:
    tensors: dict[str, Tensor] = {}
    for path, layer in unet.named_modules():
        if path.endswith("to_q"):
            out, inner = getattr(layer, "weight").shape  # noqa: B009  any layer
            tensors[f"unet.{path}.lora_down.weight"] = noise(seed, 2, inner)
            tensors[f"unet.{path}.lora_up.weight"] = noise(seed + 1, out, 2)
    return adapter_of(tensors.items(), name=f"style{seed}", source="made here")


class Counted:
    """A model with the number of rows that went through it."""

    def __init__(self, inner: nn.Module) -> None:
        self.rows = 0
        self.model = shallow_copy(inner)
        self.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:  # a hook of torch
        self.rows += len(args[0])


class Kernel:
    """The kernel of a model's attention, with the number of its calls."""

    def __init__(self) -> None:
        self.whole = self.parts = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        self.whole += 1
        return AUTOMATIC(q, k, v, mask)

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        self.parts += 1
        return AUTOMATIC.with_logsumexp(q, k, v, mask)

    def of(self, model: nn.Module) -> nn.Module:
        """A view of a model with this kernel."""
        return view(model, {path: self._on for path, one in model.named_modules() if isinstance(one, AttentionCore)})

    def _on(self, layer: nn.Module) -> nn.Module:
        twin = shallow_copy(layer)
        twin.__dict__["kernel"] = self
        return twin


class Recorder:
    """Runs what it records again, on any device."""

    def missing(self, device: str) -> str:
        return ""

    def record(self, forward: Callable[[], Any]) -> sf.engines.Recorded:
        output = forward()

        def replay() -> None:
            for kept, new in zip(output, forward(), strict=True):
                kept.copy_(new)

        return sf.engines.Recorded(replay, output)


class Cases:
    """The differences between one process and all, and the rows that this process computed."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def keep(self, name: str, one: Tensor, several: Tensor, **more: Any) -> None:
        """Keep the largest difference. `spread` shows that there is a picture."""
        self.found[name] = {"difference": (one - several).abs().max().item(), "spread": one.std().item(), **more}

    def loop(
        self, name: str, family: str, *plans: Any, rows: int = 1, sides: tuple[int, int] = (8, 8), cache: Any = None,
        taps: Taps = NO_TAPS,
    ) -> None:  # fmt: skip
        """Four steps of two passes, by the family's own block."""
        kind, config, scheduler = FAMILIES[family]
        made, programs, kernel = model(kind, config), Programs(kind, lambda: None), Kernel()
        divided = Parallel(Division.of(plans, distributed.get_world_size())).view(kernel.of(made), programs)
        prompts = [conditioning(family, seed, rows) for seed in (1, 2)]

        def run(one: nn.Module) -> tuple[Tensor, int, int]:
            counted, kept, skipped = Counted(one), cast("Any", {}), 0
            x, own = noise(5, rows, 4, *sides), predict_of(family, counted.model)
            for step in getattr(sf.schedulers, scheduler)().steps(4):
                out = CacheSteps(cache=cache)(own, kept) if cache else None
                predict = out.predict if out else own
                passes = [Pass(x, step, prompts[0], taps=taps), Pass(x, step, prompts[1], "negative")]
                a, b = predict(passes)
                x = x + 0.1 * (b + 2 * (a - b))
                if out:
                    kept = cast("Any", out.kept).value
                    skipped += sum(p.skipped for p in out.skipped_of_turn.value)
            return x, counted.rows, skipped

        (one, _, skipped), (several, forwards, skipped_too) = run(made), run(divided)
        more = {"skipped": [skipped, skipped_too], "kernel": [kernel.whole, kernel.parts]}
        self.keep(name, one, several, rows=forwards, report=str(programs.report), **more)

    def pipeline(
        self, name: str, pipe: Graph, *plans: Any, engine: Any = None, together: Sequence[dict[str, Any]] = (),
        **call: Any,
    ) -> None:  # fmt: skip
        """A whole pipeline, by `pipe.parallel`."""
        call = {"prompt": "a fox", "seed": 7, "num_inference_steps": 3, "output_type": "pt", **call}
        counted = Counted(pipe.bindings["unet"])
        divided = pipe.bind(unet=counted.model).optimize(engine).parallel(*plans)

        skipped: list[int] = []

        def run(graph: Graph) -> Tensor:
            runs = [graph.stream(**{**call, **one}) for one in together or [{}]]
            sf.together(runs)
            skipped.extend(one.outputs.skipped.layers for one in runs if "skipped" in one.outputs)
            return torch.cat([torch.as_tensor(one.outputs.images) for one in runs])

        self.keep(name, run(pipe), run(divided), rows=counted.rows, skipped=skipped)


def paused(cases: Cases, pipe: Graph) -> None:
    """A run that all processes pause after its second step, and resume."""
    call: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 4, "output_type": "pt"}
    cached = pipe.cached("deepcache")
    run, steps = cached.parallel("guidance").stream(**call), 0
    for event in run:
        steps += isinstance(event, sf.events.BlockFinished) and event.path.endswith("advance")
        if steps == 2:
            break
    again = sf.resume(run.pause()).result()
    cases.keep("paused", torch.as_tensor(cached(**call).images), torch.as_tensor(again.images))


def two(cases: Cases) -> None:
    """The cases of two processes."""
    context = sf.parallel.Context
    unet = model("UNet2DConditionModel", UNET)
    pipe = PIPE.bind(unet=unet)
    one, other = lora(unet, 1), lora(unet, 5)
    cases.pipeline("guidance", pipe, "guidance")
    body = cast("Graph", pipe.nodes["denoise"].children()[""])
    apart = replace(cast("PredictNoise", body.nodes["predict"]), batching="apart")
    cases.pipeline("guidance apart", pipe.replace("denoise.predict", apart), "guidance")
    cases.pipeline("three passes", pipe, "guidance", guider=sf.guiders.PerturbedAttentionGuidance(guidance_scale=3.0))
    cases.pipeline("one pass", pipe, "guidance", guider="none")
    cases.pipeline("batch", pipe, "batch", num_images_per_prompt=3, guider="none")
    cases.pipeline("adapters", pipe, "batch", prompt=["a fox", "an owl"], guider="none", adapters=[[one], [other]])
    cases.pipeline("adapters before", pipe.with_adapters(one), "guidance")
    cases.pipeline("together", pipe, "guidance", together=[{}, {"seed": 8, "num_inference_steps": 2, "guider": "none"}])
    cases.pipeline("cache", pipe.cached("deepcache"), "guidance", num_inference_steps=5)
    paused(cases, pipe)
    cases.loop("sdxl", "sdxl", "guidance")
    for family in ("flux", "sd3", "pixart"):
        cases.loop(f"{family} ulysses", family, "context", rows=2)
        cases.loop(f"{family} ring", family, context(ulysses=1, ring=2), sides=(6, 6))
    cases.loop("cached tokens", "sd3", "context", cache=sf.caches.FirstBlockCacheConfig(20.0))
    cases.loop("changed layers", "sd3", "context", taps=Taps((Tap(Identity()),)))

    engine = sf.engines.Graphs(recorder=Recorder())
    recorded, divided = pipe.optimize(engine), pipe.parallel("guidance")
    cases.found["orders"] = {
        "engine before and after": recorded.parallel("guidance") == divided.optimize(engine),
        "without plans": divided.parallel(None) == pipe,
        "below adapters": pipe.with_adapters(one).parallel("guidance") == divided.with_adapters(one),
    }
    cases.pipeline("engine", pipe, "guidance", engine=engine)
    texts = {
        "unet": lambda: pipe.parallel("context"),
        "heads": lambda: parallel_refusal(model("FluxTransformer2DModel", {**FLUX, "num_attention_heads": 3})),
        "seeds": lambda: divided(prompt="a fox", num_inference_steps=2),
    }
    cases.found["texts"] = {name: text_of(do) for name, do in texts.items()}
    command = [
        "run",
        "a fox",
        "--seed",
        "7",
        "--parallel",
        "guidance",
        "--set",
        "num_inference_steps=2",
        "-o",
        "run.png",
    ]
    ran = CliRunner().invoke(app, command)
    cases.found["command"] = [ran.exit_code, ran.output.partition("  ")[0]]
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0], {})


def four(cases: Cases) -> None:
    """The cases of four processes."""
    context = sf.parallel.Context
    cases.loop("guidance and ulysses", "flux", "guidance", "context", sides=(6, 6))
    cases.loop("batch and ring", "sd3", "batch", context(ulysses=1, ring=2), rows=2)
    cases.loop("ulysses and ring", "pixart", context(ulysses=2, ring=2), sides=(6, 6))
    cases.loop("idle processes", "sdxl", "guidance")


def failing(cases: Cases) -> None:
    """The second process fails in its forward, and the first one waits for it."""
    unet = model("UNet2DConditionModel", UNET)
    if distributed.get_rank() == 1:
        unet.conv_in.register_forward_pre_hook(fail)
    divided = PIPE.bind(unet=unet).parallel("guidance")
    cases.found["text"] = text_of(lambda: divided(prompt="a fox", seed=7, num_inference_steps=2))


def fail(module: Any, args: Any) -> None:  # a hook of torch
    raise ValueError("the weights are damp")


def parallel_refusal(transformer: nn.Module) -> str:
    return Parallel(Division.of(("context",), 2)).refusal_of("transformer", transformer)


def text_of(do: Callable[[], Any]) -> str:
    """The error of a function, or what it returns."""
    try:
        return str(do())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def process(rank: int, size: int, port: int, do: Callable[[Cases], None], folder: Path) -> None:
    """One process of a group."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.chdir(folder)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=240))
    cases = Cases()
    do(cases)
    (folder / f"{do.__name__}{rank}.json").write_text(json.dumps(cases.found))
    if do is not failing:
        distributed.destroy_process_group()


def group(do: Callable[[Cases], None], size: int, folder: Path) -> None:
    """Run a function in several processes. They are forks, so that torch is imported once."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children: list[int] = []
    for rank in range(size):
        if (number := os.fork()) == 0:
            code = 1
            try:
                process(rank, size, port, do, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(number)
    codes = [os.waitpid(number, 0)[1] for number in children]
    if any(codes):
        sys.exit(f"{do.__name__}: {codes}")


PIPE = sf.load("emoji")

if __name__ == "__main__":
    torch.set_grad_enabled(False)
    PIPE(prompt="a fox", num_inference_steps=1)  # so that no process has to import or load the same
    for do, size in ((two, 2), (four, 4), (failing, 2)):
        group(do, size, Path(sys.argv[1]))
