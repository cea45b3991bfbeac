"""A real Prometheus on loopback, and what Grafana would ask it for a dashboard."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

BINARY = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(BINARY is None, reason="there is no Prometheus here (Debian: prometheus)")

#: Seconds between two looks at each port.
SCRAPE_S = 1

#: What a panel draws: the points (time, value) of each line, by its legend.
Drawn = dict[str, list[tuple[float, float]]]


class Prometheus:
    """Asks a Prometheus.

    Parameters:
        url: where it is.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: Any) -> Any:
        """Return the data that its HTTP API answers."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            answer = urllib.request.urlopen(url, timeout=10).read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        return json.loads(answer)["data"]

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series, now."""
        return [(each["metric"], float(each["value"][1])) for each in self.get("query", query=query)["result"]]

    def wait_for(self, query: str, value: float, seconds: float = 60) -> None:
        """Wait until a query has one value."""
        deadline = time.monotonic() + seconds
        while [found for _, found in self.values(query)] != [value]:
            assert time.monotonic() < deadline, (query, self.values(query), self.get("targets")["activeTargets"])
            time.sleep(0.2)


@contextlib.contextmanager
def running_prometheus(folder: Path, scrape_configs: list[dict[str, Any]]) -> Iterator[Prometheus]:
    """Run a Prometheus with its data in a folder, and end it.

    Parameters:
        folder: for its configuration, data and log.
        scrape_configs: as its configuration has them.
    """
    folder.mkdir(exist_ok=True)
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": f"{SCRAPE_S}s"}, "scrape_configs": scrape_configs})
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [BINARY, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with log.open("w") as output:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def draw(prometheus: Prometheus, board: dict[str, Any], run: str, since: float) -> dict[str, Drawn]:
    """Return what each panel of a dashboard draws of a run, by the panel's title.

    Parameters:
        prometheus: the data source.
        board: the dashboard.
        run: what is chosen as ``$run``.
        since: where the time range begins; it ends now.
    """
    drawn: dict[str, Drawn] = {}
    for panel in board["panels"]:
        lines = drawn.setdefault(panel["title"], {})
        least = re.fullmatch(r"(\d+)m", panel.get("interval", "0m"))
        step = max(int(least[1]) * 60, SCRAPE_S)
        variables = {"run": run, "__rate_interval": f"{max(step + SCRAPE_S, 4 * SCRAPE_S)}s"}
        for target in panel["targets"]:
            query = _fill_in(r"\$(\w+)", target["expr"], variables)
            for labels, points in _series(prometheus, query, None if target.get("instant") else since):
                legend = _fill_in("{{(\\w+)}}", target["legendFormat"], labels)
                assert legend not in lines
                lines[legend] = [(when, float(value)) for when, value in points]
    return drawn


def _fill_in(pattern: str, text: str, values: Mapping[str, str]) -> str:
    return re.sub(pattern, lambda found: values[found[1]], text)


def _series(prometheus: Prometheus, query: str, since: float | None) -> list[tuple[dict[str, str], list[Any]]]:
    """Return the labels and the points of each series, now or since a time."""
    if since is None:
        return [(each["metric"], [each["value"]]) for each in prometheus.get("query", query=query)["result"]]
    now = time.time()  # which is a point of the grid, unlike ``since``
    frame = {"start": now - (now - since) // SCRAPE_S * SCRAPE_S, "end": now, "step": SCRAPE_S}
    return [
        (each["metric"], each["values"]) for each in prometheus.get("query_range", query=query, **frame)["result"]
    ]
