"""Memory: five pipelines in one manager with and without a budget, and loading a large folder beside diffusers.

    python tests/benchmarks/bench_memory.py [--gb 5] [--only loading]

`--gb` is the size of the random SDXL-like folder, 1.7 and more; the real one has 5.1. A fresh process loads it each
time, ours and theirs in turn. It is read from the page cache, so what is compared is the loaders and not the disk.

A peak is what the process had in memory at most beyond what it had before. Of it, mapped files can be dropped by the
kernel at any time, and "own" memory cannot. The bound is about both: the weights and one tensor, `bound` in the table.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

import sfumato as sf
from sfumato.components.device_map import DeviceMap
from sfumato.components.memory.mover import Mover
from sfumato.components.memory.sizes import show_size
from sfumato.components.spec import ComponentSpec
from sfumato.components.storage.building import on_meta
from sfumato.components.storage.weights import save_weights
from sfumato.graph.saving import Draft

EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"
PAIRS, STEPS = 5, 6

_TOUCH = """
import gc, json, sys, threading, time
import torch
def status(key):  # of this program; what getrusage says begins with the parent's
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
def touch(models):
    return sum(float(p.flatten()[::1024].float().sum()) for m in models for p in m.parameters())
own = []
def watch():  # the kernel keeps no peak of it
    while True:
        own.append(status("RssAnon"))
        time.sleep(0.01)
def report(load):
    torch.zeros(1).half().float().sum()
    threading.Thread(target=watch, daemon=True).start()
    before = status("VmHWM"), status("RssAnon")
    began = time.perf_counter()
    models = load()
    touch(models)
    first = time.perf_counter() - began
    sizes = [p.nbytes for m in models for p in m.parameters()]
    peaks = status("VmHWM") - before[0], max(own) - before[1]
    del models
    gc.collect()
    began = time.perf_counter()
    models = load()
    touch(models)
    again = time.perf_counter() - began
    print(json.dumps([first, again, *peaks, sum(sizes), sum(sizes) + max(sizes)]))
"""
OURS = f"""{_TOUCH}
import sfumato as sf
from sfumato.components.models import unet_2d_condition, autoencoder_kl, clip
def load():
    pipe = sf.load(sys.argv[1], manager=sf.ComponentsManager(dtype=sys.argv[2]))
    return [pipe.bindings[n].load() for n in ("unet", "vae", "text_encoder", "text_encoder_2")]
report(load)
"""
THEIRS = f"""{_TOUCH}
import warnings; warnings.filterwarnings("ignore")
from diffusers import StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel, AutoencoderKL
from transformers import CLIPTextModel, CLIPTextModelWithProjection
def load():
    pipe = StableDiffusionXLPipeline.from_pretrained(sys.argv[1], torch_dtype=getattr(torch, sys.argv[2]))
    return [pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2]
report(load)
"""


def sdxl_like(folder: Path, gigabytes: float) -> None:
    """A folder as SDXL's in float16, with random weights; the depth of its widest level makes up the size."""
    depth = max(1, round((gigabytes - 1.25) / 0.42))
    levels = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    unet = {
        "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2, "down_block_types": levels, "transformer_layers_per_block": [1, 2, depth],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20], "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    text = {"vocab_size": 2048, "num_hidden_layers": 2, "max_position_embeddings": 77, "bos_token_id": 2046}
    text |= {"eos_token_id": 2047, "pad_token_id": 2047}
    large = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "projection_dim": 1280}
    index: dict[str, Any] = {"_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.42.1"}
    for name, kind, config in (
        ("unet", "UNet2DConditionModel", unet),
        ("vae", "AutoencoderKL", vae),
        ("text_encoder", "CLIPTextModel", {**text, "hidden_size": 768, "intermediate_size": 3072}),
        ("text_encoder_2", "CLIPTextModelWithProjection", {**text, **large}),
    ):
        with on_meta():
            model: Any = getattr(sf.models, kind)(**config)
        noise = torch.randn(1 << 20).half() * 0.02
        tensors = {
            n: noise.repeat(p.numel() // len(noise) + 1)[: p.numel()].view(p.shape)
            for n, p in model.state_dict().items()
        }
        place = folder / name
        place.mkdir()
        transformers = name.startswith("text")
        save_weights(tensors, Draft(place, place), stem="model" if transformers else "diffusion_pytorch_model")
        extra = {"architectures": [kind], "model_type": "clip_text_model"} if transformers else {}
        (place / "config.json").write_text(json.dumps({**model.to_config(), **extra}))
        index[name] = ["transformers" if transformers else "diffusers", kind]
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(EMOJI / "tokenizer", folder / name)
        index[name] = ["transformers", "CLIPTokenizer"]
    shutil.copytree(EMOJI / "scheduler", folder / "scheduler")
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))


class Loaded(NamedTuple):
    """One load in a process of its own: `peak` and `own` are bytes that came to what the process had before."""

    first: float
    again: float
    peak: int
    own: int
    weights: int
    bound: int


def loaded(code: str, folder: Path, dtype: str) -> Loaded:
    """Have a fresh process load the folder."""
    done = subprocess.run([sys.executable, "-c", code, str(folder), dtype], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Loaded(*json.loads(done.stdout.splitlines()[-1]))


def loading(gigabytes: float) -> Table:
    """Ours beside diffusers, as the files are and cast to float32."""
    table = Table("dtype", "weights", "bound", "", "first", "again", "peak", "own", title="loading")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdxl_like(folder, gigabytes)
        for dtype in ("float16", "float32"):
            pairs = [(loaded(OURS, folder, dtype), loaded(THEIRS, folder, dtype)) for _ in range(PAIRS)]
            about = [dtype, show_size(pairs[0][0].weights), show_size(pairs[0][0].bound)]
            best: list[tuple[float, float]] = []
            for who, runs in zip(("ours", "diffusers"), zip(*pairs, strict=True), strict=True):
                best.append((min(run.first for run in runs), min(run.again for run in runs)))
                peaks = show_size(max(run.peak for run in runs)), show_size(max(run.own for run in runs))
                table.add_row(*about, who, *(f"{seconds:.2f}" for seconds in best[-1]), *peaks)
                about = [""] * len(about)
            table.add_row(*about, "ratio", *(f"{mine / theirs:.2f}" for mine, theirs in zip(*best, strict=True)))
    return table


def checkpoints(folder: Path) -> list[Path]:
    """Five checkpoints: each has the embedded U-Net as its own, and all name one tower, tokenizer and autoencoder."""
    index = json.loads((EMOJI / "model_index.json").read_text())
    made: list[Path] = []
    for number in range(5):
        mine = folder / str(number)
        shutil.copytree(EMOJI / "unet", mine / "unet")
        modular: dict[str, Any] = {"_class_name": "StableDiffusionModularPipeline"}
        for name, hint in index.items():
            if isinstance(hint, list):
                source = {"pretrained_model_name_or_path": str(mine if name == "unet" else EMOJI), "subfolder": name}
                modular[name] = [*hint, {**source, "type_hint": hint, "variant": None, "revision": None}]
        (mine / "modular_model_index.json").write_text(json.dumps(modular))
        made.append(mine)
    return made


def five() -> Table:
    """Five pipelines in turn, without a budget and with ever smaller ones."""
    table = Table("budget", "s a round", "ratio", "held", "reads a round", title="five pipelines that share, in turn")

    def rounds(folders: list[Path], budget: str | None) -> tuple[float, int, float]:
        reads: list[str] = []

        class Counting(Mover):
            def read(self, spec: ComponentSpec, dtype: str, device: str | DeviceMap) -> Any:  # any component
                reads.append(spec.subfolder)
                return super().read(spec, dtype, device)

        manager = sf.ComponentsManager(budget, mover=Counting())
        pipes = [sf.load(folder, manager=manager) for folder in folders]
        taken: list[float] = []
        for _ in range(2):
            reads.clear()
            began = time.perf_counter()
            for pipe in pipes:
                pipe(prompt="a fox", seed=1, num_inference_steps=STEPS)
            taken.append(time.perf_counter() - began)
        return taken[-1], manager.bytes, len(reads)

    with tempfile.TemporaryDirectory() as name:
        folders = checkpoints(Path(name))
        base = rounds(folders, None)
        for budget in (None, "100MB", "35MB"):
            seconds, held, reads = base if budget is None else rounds(folders, budget)
            row = (f"{seconds:.2f}", f"{seconds / base[0]:.2f}", show_size(held), f"{reads:.0f}")
            table.add_row(budget or "none", *row)
    return table


def main() -> None:
    """Print both tables, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gb", type=float, default=1.7, help="size of the folder that is loaded")
    parser.add_argument("--only", choices=("five", "loading"), help="one of the two tables")
    asked = parser.parse_args()
    console = Console(width=110)
    if asked.only != "loading":
        console.print(five())
    if asked.only != "five":
        console.print(loading(asked.gb))


if __name__ == "__main__":
    main()
