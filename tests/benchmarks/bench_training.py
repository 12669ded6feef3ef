"""Time a training step of a LoRA, and its peak of memory, beside a plain loop over diffusers' modules and peft.

Both do all of a step: encode pictures and prompts, draw noise and timesteps, predict, and step the optimizer.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

PAIRS, BATCH, SIDE, RANK = 7, 2, 256, 8
PROMPTS = ["a red apple", "a blue fox"]
UNET: dict[str, Any] = {
    "block_out_channels": (128, 256, 256), "layers_per_block": 2, "cross_attention_dim": 64, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), "sample_size": 32,
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (32, 32, 64, 64), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "latent_channels": 4,
}  # fmt: skip


def save_checkpoint(folder: Path) -> None:
    """Save a random model of the size of the embedded one's relatives, with the embedded text encoder."""
    import sfumato as sf

    diffusers: Any = import_module("diffusers")

    emoji = Path(sf.__file__).parent / "presets/embedded/emoji"
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(emoji, safety_checker=None)
    torch.manual_seed(0)
    width = pipeline.text_encoder.config.hidden_size
    unet = diffusers.UNet2DConditionModel(**{**UNET, "cross_attention_dim": width})
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE), text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer,
        unet=unet, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def ours(folder: Path) -> Callable[[], float]:
    """A step of our recipe."""
    import sfumato as sf
    from sfumato.components.random import Random
    from sfumato.components.training.adapters import train_adapter
    from sfumato.presets.training.recipe import recipe

    pipe = sf.load(folder)
    trained = train_adapter(pipe, rank=RANK)
    graph = recipe(pipe).bind(**trained.bindings())
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4)
    pixels, random = torch.rand(BATCH, 3, SIDE, SIDE), Random.seeded([0])

    def step() -> float:
        nonlocal random
        with sf.gradients():
            out = graph(pixels=pixels, prompt=PROMPTS, random=random)
        random = out.random
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return out.loss.item()

    return step


def theirs(folder: Path) -> Callable[[], float]:
    """A step of a plain loop over the modules of diffusers."""
    from peft import LoraConfig

    diffusers: Any = import_module("diffusers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    vae, text, unet, tokenizer = pipeline.vae, pipeline.text_encoder, pipeline.unet, pipeline.tokenizer
    for model in (vae, text, unet):
        model.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    pixels = torch.rand(BATCH, 3, SIDE, SIDE) * 2 - 1

    def step() -> float:
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            length = tokenizer.model_max_length
            ids = tokenizer(PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            encoded = text(ids.input_ids)[0]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (BATCH,))
        noisy = scheduler.add_noise(latents, noise, timesteps)
        loss = F.mse_loss(unet(noisy, timesteps, encoded, return_dict=False)[0].float(), noise.float())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def seconds(step: Callable[[], float]) -> float:
    """How long one step takes."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_above_models(step: Callable[[], float]) -> int:
    """The most memory that the process has during two steps, above what it has between steps, in bytes."""
    page, highest, done = 4096, 0, threading.Event()
    statm = Path("/proc/self/statm")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * page

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, resident())
            time.sleep(0.0005)

    gc.collect()
    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    step()
    done.set()
    watcher.join()
    return highest - before


def measured_alone(name: str, folder: Path) -> int:
    """The peak of memory of one of both, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, "--folder", str(folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(printed.splitlines()[-1])["bytes"])


def main() -> None:
    """Print the ratio of ours to theirs."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memory-of", choices=["ours", "theirs"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.memory_of:
        step = {"ours": ours, "theirs": theirs}[options.memory_of](options.folder)
        print(json.dumps({"bytes": peak_above_models(step)}))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder)
        mine, other = ours(folder), theirs(folder)
        mine()
        other()
        pairs = [(seconds(mine), seconds(other)) for _ in range(PAIRS)]
        peaks = [measured_alone(who, folder) for who in ("ours", "theirs")]
    table = Table("", "ours", "diffusers and peft", "ratio", title=f"a LoRA step, {BATCH} pictures of {SIDE}x{SIDE}")
    times = [statistics.median(pair[i] for pair in pairs) for i in (0, 1)]
    ratio = statistics.median(a / b for a, b in pairs)
    table.add_row("seconds", f"{times[0]:.3f}", f"{times[1]:.3f}", f"{ratio:.2f}")
    table.add_row("peak of memory, MB", *(f"{peak / 1e6:.0f}" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
