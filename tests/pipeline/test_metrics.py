"""``--metrics``: what a run serves on the metrics port of its node, and the dashboard that draws it."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tint_job import TintConfig

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.pipeline.metrics import (
    ACTORS_BUSY,
    ERROR_ROWS,
    OK_ROWS,
    SHARDS,
    STAGE_SECONDS,
    RunMetrics,
    metrics_urls,
)

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"


def served() -> dict[str, dict[str, float]]:
    """Read the metrics port: of each of our metrics the sums over all processes, by the one tag of its own."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            if labels.get("command") == TintConfig.job:
                assert re.fullmatch("[0-9a-f]{12}", labels["run"])
                tag = next((labels[each] for each in ("error_type", "stage", "state") if each in labels), "")
                found[name][tag] += value
    return found


def wait_for(ready, seconds):
    deadline = time.monotonic() + seconds
    while not ready(found := served()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


@pytest.mark.usefixtures("local_ray")
def test_a_run_is_seen_on_the_metrics_port(photos, tmp_path, hooks, caplog):
    """One shard is held while it is written: it is in flight and its actor busy, until it may go on."""
    caplog.set_level("INFO")
    words = ["--input", photos / "inputs", "--tint", photos / "references" / "0.png", "--output", tmp_path / "out"]
    words += ["--size", 64, "--weights", "random:0", "--no-lpips", "--no-progress", "--shard-size", 2, "--metrics"]
    words += ["--max-error-rate", 0.5]
    (hooks / "hold-on-write").touch()
    codes: list[int] = []
    run = threading.Thread(target=lambda: codes.append(cli.main(["tint", *map(str, words)])))
    run.start()
    try:
        held = wait_for(
            lambda found: found["ray_dmt_actors_busy"]["reconstruct"] == 1 and found["ray_dmt_shards"]["in_flight"],
            100,
        )
        assert sum(held["ray_dmt_shards"].values()) == 3
        assert held["ray_dmt_shards"]["done"] < 3
    finally:
        (hooks / "release").touch()
        run.join(100)
        (hooks / "release").unlink()
    assert codes == [0]
    assert "Metrics of run " in caplog.text
    ended = wait_for(
        lambda found: found["ray_dmt_shards"]["done"] == 3 and sum(found["ray_dmt_error_rows_total"].values()) == 2,
        30,
    )
    assert ended["ray_dmt_ok_rows_total"] == {"": 4}
    assert ended["ray_dmt_error_rows_total"] == {"empty": 1, "truncated": 1}
    assert ended["ray_dmt_shards"] == {"queued": 0, "in_flight": 0, "done": 3}
    seconds = ended["ray_dmt_stage_seconds_total"]
    assert seconds.keys() == {"read", "traverse", "reconstruct"}
    assert all(0 < value < 100 for value in seconds.values())


def test_the_dashboard_draws_what_is_served():
    """Queries name only metrics that there are, and tags that they have; each is drawn; panels lie side by side."""
    board = json.loads(DASHBOARD.read_text())
    names = {f"ray_{name}_total" for name, _ in (OK_ROWS, ERROR_ROWS, STAGE_SECONDS)}
    names |= {f"ray_{name}" for name, _ in (SHARDS, ACTORS_BUSY)}
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = [set(re.findall(r"ray_\w+", query)) for query in (*queries, variables["run"]["query"]["query"])]
    assert all(named)
    assert set().union(*named) == names
    for query in queries:
        assert set(re.findall(r"\$(\w+)", query)) <= {"run", "__rate_interval"}
        assert set(re.findall(r"by \((\w+)\)", query)) <= {"run", "stage", "state", "error_type"}
    covered = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert all(x < 24 for x, _ in covered)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"${datasource}"}
    assert variables["datasource"]["query"] == "prometheus"


def test_an_agent_that_serves_no_metrics_is_an_error():
    node = {"Alive": True, "NodeManagerAddress": "10.0.0.7", "MetricsExportPort": 9100}
    assert metrics_urls([node | {"Alive": False}, node], []) == ["http://10.0.0.7:9100/metrics"]
    assert RunMetrics.missing() == []
    with pytest.raises(SettingsError, match=r"lacks prometheus_client\. Install ray\[default\] on every node"):
        metrics_urls([node], ["prometheus_client"])
    with pytest.raises(SettingsError, match="no node has a metrics port"):
        metrics_urls([node | {"MetricsExportPort": 0}], [])
