"""Batches on a Ray cluster of two nodes, of which one is killed in the middle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato as sf
from sfumato import BatchRow, Graph

NODE: dict[str, Any] = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 2}
"""A node that answers no more is lost after a second. Ray's defaults take 20."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local cluster, whose head is one node."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # so it uses addresses of this machine alone
    head = {**NODE, "include_dashboard": False, "_system_config": HEALTH}
    made: Any = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def test_a_lost_node_loses_no_row_and_pictures_are_those_of_calls(cluster: Any, emoji: Graph, tmp_path: Path) -> None:
    lost = cluster.add_node(**NODE)
    rows: list[dict[str, Any]] = [
        {"prompt": f"emoji {n}", "seed": n, "num_inference_steps": 1 + n % 2, "guider": "none"} for n in range(18)
    ]
    rows[5]["seed"] = "many"
    ended: list[int] = []

    def on_row(row: BatchRow) -> None:
        ended.append(row.row)
        if len(ended) == 6:
            cluster.remove_node(lost, allow_graceful=False)

    nodes = sf.RayCluster(cluster.address, workers=2)
    with pytest.warns(UserWarning, match="1 of 18 rows of the batch failed"):
        made = sf.batch(emoji, rows, tmp_path, engine=nodes, at_once=1, on_row=on_row)
    assert [row.row for row in made] == sorted(ended) == [*range(1, 19)]
    assert [row.row for row in made if row.did == "failed"] == [6]
    for row in list(made)[3:18:7]:
        with Image.open(tmp_path / row.files[0]) as ours:
            alone = np.asarray(emoji(**rows[row.row - 1]).images[0], np.int16)
            assert np.abs(np.asarray(ours, np.int16) - alone).max() <= 1
    local = sf.batch(emoji, rows[:5], tmp_path, manifest="local.jsonl")
    assert (local.found, local.drawn) == (5, 0)
