"""``--metrics``: what a run serves on the metrics port of its node, and the dashboard that draws it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import threading
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from real_prometheus import BINARY, Drawn, draw, needs_prometheus, running_prometheus
from tint_job import TintConfig

from dmt_ray import cli
from dmt_ray.errors import ERROR_TYPES, SettingsError
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


@dataclass
class SeenRun:
    """A run as it was seen from outside: once while a shard was held, and after its end."""

    log: str
    held: dict[str, dict[str, float]]
    ended: dict[str, dict[str, float]]
    board_runs: list[str] = field(default_factory=list)
    """What the dashboard offers as ``$run``."""
    board_held: dict[str, Drawn] = field(default_factory=dict)
    board_ended: dict[str, Drawn] = field(default_factory=dict)


@pytest.fixture(scope="module")
def seen(local_ray, photos, hooks, tmp_path_factory) -> SeenRun:
    """One shard is held while it is written: it is in flight and its actor busy, until it may go on.

    A Prometheus looks on, where there is one.
    """
    import ray

    folder = tmp_path_factory.mktemp("metrics")
    words = ["--input", photos / "inputs", "--tint", photos / "references" / "0.png", "--output", folder / "out"]
    words += ["--size", 64, "--weights", "random:0", "--no-lpips", "--no-progress", "--shard-size", 2, "--metrics"]
    words += ["--max-error-rate", 0.5]
    board, since, lines = json.loads(DASHBOARD.read_text()), time.time(), io.StringIO()
    (node,) = ray.nodes()
    port = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    with contextlib.ExitStack() as stack:
        prometheus = None
        if BINARY is not None:
            config = {"job_name": "ray", "static_configs": [{"targets": [port]}]}
            prometheus = stack.enter_context(running_prometheus(folder / "prometheus", [config]))
        logger, handler = logging.getLogger("dmt_ray"), logging.StreamHandler(lines)
        stack.callback(logger.setLevel, logger.level)
        stack.callback(logger.removeHandler, handler)
        logger.setLevel("INFO")
        logger.addHandler(handler)
        (hooks / "hold-on-write").touch()
        codes: list[int] = []
        run = threading.Thread(target=lambda: codes.append(cli.main(["tint", *map(str, words)])))
        run.start()
        try:
            held = wait_for(
                lambda found: (
                    found["ray_dmt_actors_busy"]["reconstruct"] == 1 and found["ray_dmt_shards"]["in_flight"]
                ),
                100,
            )
            seen = SeenRun("", held, {})
            if prometheus is not None:
                prometheus.wait_for('sum(ray_dmt_actors_busy{stage="reconstruct"})', 1)
                # Prometheus adds half an interval to what a rate is taken over: with so many looks, that is little.
                prometheus.wait_for('sum(count_over_time(ray_dmt_shards{state="done"}[2m])) >= bool 8', 1)
                seen.board_runs = prometheus.get("label/run/values", **{"match[]": offered(board), "start": since})
                # As Grafana writes several chosen ones.
                chosen = f"({seen.board_runs[0]}|000000000000)"
                seen.board_held = draw(prometheus, board, chosen, since)
        finally:
            (hooks / "release").touch()
            run.join(100)
            (hooks / "release").unlink()
        assert codes == [0]
        seen.ended = wait_for(
            lambda found: (
                found["ray_dmt_shards"]["done"] == 3 and sum(found["ray_dmt_error_rows_total"].values()) == 2
            ),
            30,
        )
        if prometheus is not None:
            prometheus.wait_for('sum(ray_dmt_shards{state="done"})', 3)
            seen.board_ended = draw(prometheus, board, chosen, since)
    seen.log = lines.getvalue()
    return seen


def offered(board):
    """Return of which metric the dashboard's ``$run`` offers the label ``run``."""
    (query,) = (each["query"]["query"] for each in board["templating"]["list"] if each["name"] == "run")
    return re.fullmatch(r"label_values\((\w+), run\)", query)[1]


def test_a_run_is_seen_on_the_metrics_port(seen):
    assert sum(seen.held["ray_dmt_shards"].values()) == 3
    assert seen.held["ray_dmt_shards"]["done"] < 3
    assert "Metrics of run " in seen.log
    assert seen.ended["ray_dmt_ok_rows_total"] == {"": 4}
    errors = seen.ended["ray_dmt_error_rows_total"]
    assert errors == dict.fromkeys(ERROR_TYPES, 0) | {"empty": 1, "truncated": 1}
    assert seen.ended["ray_dmt_shards"] == {"queued": 0, "in_flight": 0, "done": 3}
    assert seen.ended["ray_dmt_actors_busy"] == {"traverse": 0, "reconstruct": 0}
    seconds = seen.ended["ray_dmt_stage_seconds_total"]
    assert seconds.keys() == {"read", "traverse", "reconstruct"}
    assert all(0 < value < 100 for value in seconds.values())


@needs_prometheus
def test_every_panel_of_the_dashboard_draws_the_run(seen):
    """By a real Prometheus, with Grafana's variables filled in as Grafana does."""
    (run,) = seen.board_runs
    assert f"Metrics of run {run}" in seen.log

    held = last(seen.board_held)
    assert held["Actors that work"][""] >= 1
    assert held["Actors that work, by stage"]["reconstruct"] == 1
    assert held["Shards"]["in_flight"] >= 1
    assert sum(held["Shards"].values()) == 3
    assert held["Rows with a result"][""] == seen.held["ray_dmt_ok_rows_total"][""]
    assert held["Error rows"][""] == sum(seen.held["ray_dmt_error_rows_total"].values())

    ended = last(seen.board_ended)
    assert ended.pop("Actors that work").keys() == {""}
    assert ended.pop("Actors that work, by stage").keys() <= {"traverse", "reconstruct"}
    assert ended.pop("Rows with a result") == {"": 4}
    assert ended.pop("Error rows") == {"": 2}
    assert ended.pop("Shards done") == {"": 1}
    assert ended.pop("Error rows by type") == {"empty": 1, "truncated": 1}
    assert ended.pop("Shards") == {"queued": 0, "in_flight": 0, "done": 3}
    # All rows lie in the 121 s that a rate is taken over; Prometheus adds half an interval at each end.
    assert ended.pop("Rows per second") == pytest.approx({f"{run} ok": 4 / 121, f"{run} errors": 2 / 121}, rel=0.15)
    per_row = {stage: seconds / 6 for stage, seconds in seen.ended["ray_dmt_stage_seconds_total"].items()}
    assert ended.pop("Seconds per row, by stage") == pytest.approx(per_row, rel=0.02)
    assert not ended


def last(board: dict[str, Drawn]) -> dict[str, dict[str, float]]:
    """Return the last value of each line of each panel."""
    return {title: {legend: points[-1][1] for legend, points in lines.items()} for title, lines in board.items()}


def kept(ours, parsed, place=""):
    """Yield where a file's values are not what came back of them."""
    if isinstance(ours, dict) and isinstance(parsed, dict):
        for key, value in ours.items():
            yield from kept(value, parsed.get(key), f"{place}.{key}")
    elif isinstance(ours, list) and isinstance(parsed, list) and len(ours) == len(parsed):
        for index, pair in enumerate(zip(ours, parsed, strict=True)):
            yield from kept(*pair, f"{place}[{index}]")
    elif ours != parsed:
        yield place


def test_grafana_s_own_model_knows_every_field_of_the_dashboard():
    """What Grafana does not know, its model leaves out."""
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()

    def not_kept(board):
        return list(kept(board, json.loads(JSONEncoder().encode(Dashboard.from_json(board)))))

    board = json.loads(DASHBOARD.read_text())
    assert not_kept(board) == []
    board["panels"][8]["options"]["legend"]["placment"] = "bottom"
    board["panels"][0]["targets"][0]["expression"] = "1"
    assert not_kept(board) == [".panels[0].targets[0].expression", ".panels[8].options.legend.placment"]


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
