"""Batches of the embedded model: side by side against one by one, in turns; and on two Ray nodes, with one killed.

python tests/benchmarks/bench_batch.py [--rows 48] [--steps 4] [--turns 3]
python tests/benchmarks/bench_batch.py --ray --rows 200 --steps 1
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import sfumato as sf

WORDS = "a red apple", "a fox", "a sun, smiling", "a small cat", "a rocket", "a crown"


def rows_of(count: int, steps: int) -> list[dict[str, Any]]:
    return [
        {"prompt": WORDS[n % len(WORDS)], "seed": n, "num_inference_steps": steps + n % 2,
         "guider": "none" if n % 3 == 0 else "cfg"}
        for n in range(count)
    ]  # fmt: skip


def seconds(rows: list[dict[str, Any]], at_once: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        made = sf.batch(sf.load("emoji"), rows, folder, at_once=at_once)
        assert made.drawn == len(rows)
        return time.perf_counter() - began


def side_by_side(count: int, steps: int, turns: int) -> None:
    rows = rows_of(count, steps)
    seconds(rows[:4], 4)
    taken: dict[int, list[float]] = {1: [], 4: [], 8: []}
    for _ in range(turns):
        for at_once, found in taken.items():
            found.append(seconds(rows, at_once))
    for at_once, found in taken.items():
        factor = statistics.median(a / b for a, b in zip(taken[1], found, strict=True))
        spread = f"{min(found):.1f} to {max(found):.1f} s"
        print(f"at_once={at_once}: {count / statistics.median(found):.2f} rows/s ({spread}), {factor:.2f} x one by one")


def on_ray(count: int, steps: int) -> None:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    lost = cluster.add_node(**node)
    rows, ended, pipe = rows_of(count, steps), list[int](), sf.load("emoji")
    rows[count // 2]["seed"] = "many"
    began = time.perf_counter()

    def on_row(row: sf.BatchRow) -> None:
        ended.append(row.row)
        if len(ended) == count // 3:
            print(f"killed a node after {len(ended)} rows, {time.perf_counter() - began:.1f} s")
            cluster.remove_node(lost, allow_graceful=False)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = sf.batch(
            pipe, rows, folder, engine=sf.RayCluster(cluster.address, workers=2), at_once=4, on_row=on_row
        )  # fmt: skip
        print(f"{made.drawn} drawn, {made.found} found, {made.failed} failed, {time.perf_counter() - began:.1f} s")
        assert [row.row for row in made] == [*range(1, count + 1)] == sorted(ended)
        assert [row.row for row in made if row.did == "failed"] == [count // 2 + 1]
        apart = [
            int(np.abs(pixels(Path(folder, row.files[0])) - np.asarray(alone, np.int16)).max())
            for row in made if row.files for alone in pipe(**rows[row.row - 1], progress=False).images
        ]  # fmt: skip
        same = sum(one == 0 for one in apart)
        print(
            f"{same} of {len(apart)} pictures are calls' to the bit, and others differ by {max(apart)} of 255 at most"
        )
        local = sf.batch(pipe, rows, folder, manifest="local.jsonl")
        print(f"a local batch then finds {local.found}, and draws {local.drawn}")
    cluster.shutdown()


def pixels(file: Path) -> "np.ndarray[Any, np.dtype[np.int16]]":
    with Image.open(file) as picture:
        return np.asarray(picture, np.int16)


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=48)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--ray", action="store_true")
    chosen = options.parse_args()
    if chosen.ray:
        on_ray(chosen.rows, chosen.steps)
    else:
        side_by_side(chosen.rows, chosen.steps, chosen.turns)
