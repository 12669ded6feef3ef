"""The models of gpu.py at their published sizes or tiny, and their forwards by sfumato and by diffusers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sfumato as sf
from sfumato import ConfigError
from sfumato.components.adapters.known_models import published_configs
from sfumato.components.engines.engine import Candidate, Engine
from sfumato.components.engines.optimized import Optimized
from sfumato.presets.bench.peer import twin_of

Forward = Callable[[], Tensor]
BASE = "diffusers"
THEIRS_COMPILED = "diffusers, compiled with CUDA graphs"


# --------------------------------------------------------------------------------------------------------------- parts
class Part(NamedTuple):
    """A model and a call of it. preset: its name; family: in the table of published sizes; side: of the latents; rows:
    two with guidance; seconds: the time limit."""

    preset: str
    family: str
    component: str
    kind: str
    side: int
    tokens: int
    rows: int
    dtype: torch.dtype
    seconds: float
    tiny: Mapping[str, Any]


_UNET: Mapping[str, Any] = {
    "sample_size": 8, "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "attention_head_dim": 2, "cross_attention_dim": 32,
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
_SIZES = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80,
    "transformer_layers_per_block": [1, 2], "use_linear_projection": True,
}  # fmt: skip
_FLUX: Mapping[str, Any] = {
    "in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True, "axes_dims_rope": [4, 6, 6],
}  # fmt: skip
PARTS = {
    "sdxl": Part("sdxl", "SDXL", "unet", "UNet2DConditionModel", 128, 77, 2, torch.float16, 190, {**_UNET, **_SIZES}),
    "sd": Part("sd", "Stable Diffusion 1", "unet", "UNet2DConditionModel", 64, 77, 2, torch.float16, 80, _UNET),
    "flux": Part(
        "flux", "Flux", "transformer", "FluxTransformer2DModel", 128, 512, 1, torch.bfloat16, 130, _FLUX
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    device: str
    tiny: bool
    rounds: int

    def dtype(self, part: Part) -> torch.dtype:
        """The dtype of a part: float32 on a CPU."""
        return part.dtype if self.device.startswith("cuda") else torch.float32


@dataclass
class Subject:
    """The model of a part, and the arguments of its forward, which both libraries take."""

    part: Part
    options: Options
    model: Any = field(init=False)  # a model of the part's class
    call: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        part, dtype = self.part, self.options.dtype(self.part)
        config = dict(part.tiny) if self.options.tiny else dict(published_configs(part.family)[part.component])
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            with torch.device(self.options.device):
                self.model = getattr(sf.models, part.kind)(**config).eval().requires_grad_(False)
                self.call = self._arguments()
        finally:
            torch.set_default_dtype(torch.float32)

    @property
    def side(self) -> int:
        """Of the latents."""
        return 8 if self.options.tiny else self.part.side

    def _arguments(self) -> dict[str, Any]:
        rows, config = self.part.rows, self.model.config
        time_of_rows = torch.full((rows,), 500.0, dtype=torch.float32)
        if self.part.component == "unet":
            more: dict[str, Any] = {}
            if config.addition_embed_type is not None:
                pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
                more["added_cond_kwargs"] = {"text_embeds": torch.randn(rows, pooled), "time_ids": torch.ones(rows, 6)}
            sample, prompt = (rows, 4, self.side, self.side), (rows, self.part.tokens, config.cross_attention_dim)
            return {"sample": torch.randn(sample), "timestep": time_of_rows, **more,
                    "encoder_hidden_states": torch.randn(prompt)}  # fmt: skip
        count = self.side // 2
        grid = torch.cartesian_prod(torch.zeros(1), torch.arange(count).float(), torch.arange(count).float())
        tokens = 16 if self.options.tiny else self.part.tokens
        return {
            "hidden_states": torch.randn(rows, count * count, config.in_channels), "timestep": time_of_rows / 1000,
            "encoder_hidden_states": torch.randn(rows, tokens, config.joint_attention_dim),
            "pooled_projections": torch.randn(rows, config.pooled_projection_dim),
            "guidance": torch.full((rows,), 3.5, dtype=torch.float32), "img_ids": grid,
            "txt_ids": torch.zeros(tokens, 3),
        }  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- sides
def engines(options: Options) -> Mapping[str, Engine]:
    """sfumato's engines, by name. Tiny models are compiled by a backend that runs what it has traced."""
    compiled = sf.engines.Compile(shapes="fixed", backend="eager" if options.tiny else "inductor")
    fused = sf.engines.Fused(projections=True)
    return {
        "graphs": sf.engines.Graphs(), "compile": compiled, "fused": fused, "max": sf.engines.Max(),
        "graphs, fused": sf.engines.Graphs(fused=fused),
    }  # fmt: skip


def sides(subject: Subject) -> Iterator[tuple[str, Callable[[], Forward]]]:
    """The sides of a part, those first that matter most, as functions that make them ready."""
    options = subject.options
    own = engines(options)
    yield BASE, lambda: theirs(subject)
    yield "sfumato", lambda: ours(subject)
    yield "graphs", lambda: ours(subject, own["graphs"])
    yield "compile", lambda: ours(subject, own["compile"])
    yield "fused", lambda: ours(subject, own["fused"])
    yield "graphs, fused", lambda: ours(subject, own["graphs, fused"])
    yield THEIRS_COMPILED, lambda: theirs_compiled(subject)
    yield "max", lambda: ours(subject, own["max"])


def ours(subject: Subject, engine: Engine | None = None) -> Forward:
    """sfumato's forward, by an engine. ConfigError where it cannot run on this device."""
    model, name = subject.model, subject.part.component
    if engine is not None:
        if reason := engine.refusal(Candidate.of(name, model)):
            raise ConfigError(f"not on this device: {name} {reason}.")
        model = Optimized(model, name, engine).load()
    return lambda: model(**subject.call)


def theirs(subject: Subject) -> Forward:
    """The forward of diffusers, with the same weights."""
    kind = getattr(import_module("diffusers"), subject.part.kind)
    other = twin_of(subject.model, kind)
    return lambda: other(**subject.call, return_dict=False)[0]


def theirs_compiled(subject: Subject) -> Forward:
    """The whole forward of diffusers compiled, with CUDA graphs where there is CUDA."""
    other = twin_of(subject.model, getattr(import_module("diffusers"), subject.part.kind))
    on_cuda, compile_function = subject.options.device.startswith("cuda"), torch.compile  # its overloads are narrow
    how: Any = {"mode": "reduce-overhead", "fullgraph": True} if on_cuda else {"backend": "eager"}
    compiled: Any = compile_function(other, **how)

    def call() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(**subject.call, return_dict=False)[0]

    return call
