"""Time a step of SDXL, Stable Diffusion 1.5 and Flux on one GPU: sfumato by each engine beside diffusers.

Models have their published sizes and random weights, so nothing is downloaded. Each part is a process with a time
limit. What it has measured is kept when it fails or runs out of time, and the rest goes on. All parts together take
less than eight minutes. The sides of a part run in turns, so that a busy machine slows all of them.

    python tests/benchmarks/gpu.py --out gpu.json
    python tests/benchmarks/gpu.py --tiny --device cpu  # the whole script on tiny models, in one process
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_models import BASE, PARTS, THEIRS_COMPILED, Forward, Options, Subject, engines, ours, sides
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import sfumato as sf
from sfumato import ConfigError
from sfumato.components.conditioning import FluxConditioning, SDConditioning, SDXLConditioning
from sfumato.presets.bench.machine import device_label, matmul_rate
from sfumato.presets.bench.published import random_pipeline


# ------------------------------------------------------------------------------------------------------------- measure
class Clock:
    """Milliseconds of a number of calls, without a wait of the host between them."""

    def __init__(self, device: str) -> None:
        self.on_cuda = device.startswith("cuda")

    def time(self, forward: Forward, calls: int) -> float:
        """Milliseconds of one call."""
        if not self.on_cuda:
            began = time.perf_counter()
            for _ in range(calls):
                forward()
            return (time.perf_counter() - began) / calls * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            forward()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / calls

    def peak(self, forward: Forward) -> int:
        """The most bytes that the allocator had in a call; 0 without CUDA."""
        if not self.on_cuda:
            return 0
        torch.cuda.reset_peak_memory_stats()
        self.time(forward, 1)
        return torch.cuda.max_memory_allocated()


def run_part(name: str, options: Options, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure a part. save: gets all that was found so far, whenever there is more."""
    found: dict[str, Any] = {"sides": {}, "missing": {}, "now": "making the model"}
    save(found)
    subject, clock = Subject(PARTS[name], options), Clock(options.device)
    ready: dict[str, Forward] = {}
    with torch.no_grad():
        found |= {"rate": matmul_rate(options.device, options.dtype(subject.part)), "flops": flops_of(subject)}
        expected = ours(subject)()
        for side, make in sides(subject):
            found["now"] = side
            save(found)
            print(f"{name}: {side}", flush=True)
            began = time.perf_counter()
            try:
                forward = make()
                out = forward()
                seconds = clock_ready(forward, options, began)
            except Exception as error:  # whatever a compiler raises: the other sides are measured
                found["missing"][side] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            ready[side] = forward
            found["sides"][side] = {
                "ready_s": seconds, "peak": clock.peak(forward),
                "difference": float((out - expected).abs().max() / expected.abs().max()),
                "ms": [], "against_base": [],
            }  # fmt: skip
            rounds(ready, [BASE, side], found, clock, 2 if options.tiny else 3)
            save(found)
        found["now"] = "all sides in turns"
        save(found)
        for one in found["sides"].values():
            one["ms"].clear()
            one["against_base"].clear()
        rounds(ready, list(ready), found, clock, options.rounds)
        save(found)
        found["now"] = "steps of the loop"
        save(found)
        found["loop"] = loop_steps(subject, options)
    found["now"] = ""
    save(found)


def clock_ready(forward: Forward, options: Options, began: float) -> float:
    """Seconds from `began` until the first result is there. Warms up after that."""
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    for _ in range(1 if options.tiny else 5):
        forward()
    return seconds


def rounds(ready: Mapping[str, Forward], names: Sequence[str], found: dict[str, Any], clock: Clock, count: int) -> None:
    """Time these sides in turns, each for about 300 ms a round."""
    most = 20 if clock.on_cuda else 1
    names = [name for name in dict.fromkeys(names) if name in ready]
    base = next(iter(ready), "")
    calls = {name: max(1, min(most, int(300 / clock.time(ready[name], 1)))) for name in names}
    for _ in range(count):
        times = {name: clock.time(ready[name], calls[name]) for name in names}
        for name, ms in times.items():
            found["sides"][name]["ms"].append(ms)
            if base in times:
                found["sides"][name]["against_base"].append(times[base] / ms)


def flops_of(subject: Subject) -> int:
    """The operations of a forward."""
    with FlopCounterMode(display=False) as counter:
        subject.model(**subject.call)
    return counter.get_total_flops()


# ------------------------------------------------------------------------------------------------------------- offload
OFFLOAD = "offload"
_SECONDS = 70
_WAYS: Mapping[str, Mapping[str, Any]] = {
    "on the device": {}, "blocks": {"by": "blocks"}, "blocks, prefetched": {"by": "blocks", "prefetch": True},
    "stored in float8": {"storage": "float8_e4m3fn"},
}  # fmt: skip


def run_offload(options: Options, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure a step of the loop of Stable Diffusion 1.5 with weights kept in several ways."""
    found: dict[str, Any] = {"sides": {}, "missing": {}, "flops": 0, "rate": 1.0}
    clock, ready, steps = Clock(options.device), dict[str, Forward](), 1 if options.tiny else 4
    dtype = str(options.dtype(PARTS["sd"])).removeprefix("torch.")
    for way, settings in _WAYS.items():
        found["now"] = way
        save(found)
        print(f"{OFFLOAD}: {way}", flush=True)
        began = time.perf_counter()
        try:
            manager = sf.ComponentsManager(device=options.device, dtype=dtype)
            manager.offload("unet", **settings)
            pipe = sf.load("emoji", manager=manager) if options.tiny else random_pipeline("sd", manager)
            forward = drawing(pipe.only("latents"), steps)
            seconds = clock_ready(forward, options, began)
        except Exception as error:  # the other ways are measured
            found["missing"][way] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        ready[way] = forward
        found["sides"][way] = {"ready_s": seconds, "peak": clock.peak(forward), "difference": 0.0, "ms": [],
                               "against_base": []}  # fmt: skip
    rounds(ready, list(ready), found, clock, 1 if options.tiny else 3)
    for one in found["sides"].values():
        one["ms"] = [ms / steps for ms in one["ms"]]
    found["now"] = ""
    save(found)


def drawing(pipe: Any, steps: int) -> Forward:
    """A run of a pipeline, which gives latents."""
    return lambda: pipe(prompt="a fox", seed=0, num_inference_steps=steps, progress=False).latents


# ---------------------------------------------------------------------------------------------------------------- loop
def loop_steps(subject: Subject, options: Options) -> dict[str, float]:
    """Milliseconds of a step of the whole loop, by engine: guider and scheduler are part of it."""
    part = subject.part
    scheduler = random_pipeline(part.preset, sf.ComponentsManager()).bindings["scheduler"]
    pipe = sf.load(part.preset).only("latents").bind({part.component: subject.model, "scheduler": scheduler})
    found: dict[str, float] = {}
    few, many = (1, 2) if options.tiny else (4, 12)
    for name, engine in (("sfumato", None), *engines(options).items()):
        if name not in ("sfumato", "graphs", "compile") or (options.tiny and name == "compile"):
            continue  # the others differ in the forward alone
        try:
            graph = pipe if engine is None else pipe.optimize(engine, part.component)
        except ConfigError:
            continue
        values = {**conditioning(subject), "seed": 0, "height": 8 * subject.side, "width": 8 * subject.side}

        def seconds(steps: int, graph: Any = graph, values: Mapping[str, Any] = values) -> float:
            began = time.perf_counter()
            graph(**values, num_inference_steps=steps, progress=False).latents.cpu()
            return time.perf_counter() - began

        seconds(few)
        found[name] = (
            (median(seconds(many) for _ in range(3)) - median(seconds(few) for _ in range(3))) * 1e3 / (many - few)
        )
    return found


def conditioning(subject: Subject) -> dict[str, Any]:
    """Encoded prompts of the sizes that the model reads."""
    call, row = subject.call, slice(0, 1)
    prompt = call["encoder_hidden_states"][row].float()
    if subject.part.component == "transformer":
        one: Any = FluxConditioning(prompt, call["pooled_projections"][row].float())
    elif (added := call.get("added_cond_kwargs")) is None:
        one = SDConditioning(prompt)
    else:
        one = SDXLConditioning(prompt, added["text_embeds"][row].float(), added["time_ids"][row].float())
    return {"positive": one, "negative": one}


# --------------------------------------------------------------------------------------------------------------- report
def targets(parts: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float]]:
    """What was asked for: a text, what was measured or None, and the least that is good."""

    def ratio(part: str, slow: str, fast: str) -> float | None:
        found = parts.get(part, {}).get("sides", {})
        if not all(found.get(one, {}).get("ms") for one in (slow, fast)):
            return None
        return median(a / b for a, b in zip(found[slow]["ms"][::-1], found[fast]["ms"][::-1], strict=False))

    for part in ("sdxl", "sd"):
        yield f"{part}: graphs against diffusers, times faster", ratio(part, BASE, "graphs"), 1.8
    for part in ("sdxl", "sd"):
        best = max((r for side in ("compile", "max") if (r := ratio(part, THEIRS_COMPILED, side))), default=None)
        yield f"{part}: compiled against {THEIRS_COMPILED}, times faster", best, 1.1
    flux = parts.get("flux", {})
    shares = [share for side in ("compile", "max") if (share := _share(flux, side)) is not None]
    yield "flux: compiled, share of the rate of a large product", max(shares, default=None), 0.75


def _share(part: Mapping[str, Any], side: str) -> float | None:
    ms = part.get("sides", {}).get(side, {}).get("ms")
    return part["flops"] / (median(ms) / 1e3) / part["rate"] if ms else None


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print tables, reasons and targets."""
    for name, part in result["parts"].items():
        table = Table("side", "ms", "spread", "x the first", "of the rate", "ready", "memory", "difference", title=name)
        for side, one in part.get("sides", {}).items():
            if not (ms := one["ms"]):
                continue
            middle, share = median(ms), _share(part, side)
            spread = f"{100 * (max(ms) - min(ms)) / middle:.0f}%"
            faster = f"{median(one['against_base']):.2f}" if one["against_base"] else "-"
            table.add_row(
                side, f"{middle:.2f}", spread, faster, f"{100 * (share or 0):.0f}%", f"{one['ready_s']:.1f} s",
                f"{one['peak'] / 2**30:.1f} GiB", f"{one['difference']:.1e}",
            )  # fmt: skip
        console.print(table)
        for side, ms in part.get("loop", {}).items():
            console.print(f"  a step of the loop, {side}: {ms:.2f} ms")
        for side, why in part.get("missing", {}).items():
            console.print(f"  {side}: {why}", markup=False)
        if why := part.get("stopped"):
            console.print(f"  {why}", markup=False)
    for text, value, least in targets(result["parts"]):
        state = "not measured" if value is None else f"{value:.2f}, {'reached' if value >= least else 'not reached'}"
        console.print(f"{text}: {state} (at least {least})", markup=False)


# ---------------------------------------------------------------------------------------------------------------- main
def run(name: str, options: Options, save: Callable[[dict[str, Any]], None]) -> None:
    """Measure a part in this process."""
    if name == OFFLOAD:
        run_offload(options, save)
    else:
        run_part(name, options, save)


def in_process(name: str, options: Options) -> dict[str, Any]:
    """What a part gives, measured in a process of its own within its time limit."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "part.json")
        command = [sys.executable, __file__, "--part", name, "--device", options.device, "--out", str(file),
                   "--rounds", str(options.rounds), *(["--tiny"] if options.tiny else [])]  # fmt: skip
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(folder, "compiled"))}
        stopped = ""
        limit = PARTS[name].seconds if name in PARTS else _SECONDS
        try:
            done = subprocess.run(command, timeout=limit, env=environment, check=False,
                                  stderr=subprocess.PIPE, text=True)  # fmt: skip
            if done.returncode:
                stopped = f"ended with {done.returncode}: {(done.stderr.strip() or '-').splitlines()[-1]}"
        except subprocess.TimeoutExpired:
            stopped = f"ran longer than {limit:g} s"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return {**found, "stopped": f"{stopped}, during: {found.get('now', 'its start')}"} if stopped else found


def saver(file: Path) -> Callable[[dict[str, Any]], None]:
    """Write JSON whole, so that a process that is stopped leaves what it had."""

    def save(found: dict[str, Any]) -> None:
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(found))
        draft.replace(file)

    return save


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure all parts; print tables, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, all in this process")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, OFFLOAD], default=[*PARTS, OFFLOAD])
    parser.add_argument("--part", choices=[*PARTS, OFFLOAD], help="one part, in this process")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    given = parser.parse_args(arguments)
    options = Options(given.device, given.tiny, given.rounds)
    if given.part:
        run(given.part, options, saver(given.out))
        return {}
    began, parts = time.perf_counter(), dict[str, Any]()
    result: dict[str, Any] = {
        "device": device_label(options.device),
        "versions": {name: version(name) for name in ("sfumato", "torch", "diffusers")}, "parts": parts,
    }  # fmt: skip
    for name in given.only:
        if options.tiny:
            run(name, options, lambda found, name=name: parts.update({name: json.loads(json.dumps(found))}))
        else:
            parts[name] = in_process(name, options)
        result["seconds"] = time.perf_counter() - began
        saver(given.out)(result)
    show(result, Console(width=140))
    return result


if __name__ == "__main__":
    main()
