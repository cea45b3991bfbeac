"""A node is taken away from a cluster of three in the middle of a run."""

import os
import subprocess
import sys

import pytest
from material import chaos_environment

from chaos.conftest import PATIENCE, command_line

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]

SCRIPT = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from dmt_ray.cli import main

out = Path(sys.argv[sys.argv.index("--output") + 1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
workers = [cluster.add_node(num_cpus=2) for _ in range(2)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, logging_level="warning")

def parents(kind):
    for process in Path("/proc").iterdir():
        try:
            if kind in (process / "cmdline").read_text():
                yield int((process / "stat").read_text().rpartition(") ")[2].split()[1])
        except (OSError, ValueError):
            pass

def remove():
    while not list(out.glob("shards/shard-*")):
        time.sleep(0.02)
    busy = set(parents("ReconstructionActor"))
    for node in workers:
        if node.all_processes["raylet"][0].process.pid in busy:
            cluster.remove_node(node, allow_graceful=False)
            print("REMOVED after", len(list(out.glob("shards/shard-*"))), flush=True)
            return

thread = threading.Thread(target=remove, daemon=True)
thread.start()
code = main(sys.argv[1:])
thread.join(1)
print("ALIVE", sum(node["Alive"] for node in ray.nodes()), flush=True)
ray.shutdown()
cluster.shutdown()
sys.exit(code)
"""


def test_a_node_that_goes_away_with_its_actors(options, same, tmp_path):
    """The node on which the reconstruction runs goes away after the first shard."""
    out = tmp_path / "out"
    own_hooks = tmp_path / "hooks"
    own_hooks.mkdir()
    environment = {**os.environ, **chaos_environment(own_hooks)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", SCRIPT, *command_line(options, out)[3:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "REMOVED after" in done.stdout
    assert "ALIVE 2" in done.stdout
    rows = same(out)
    assert len(set(rows.worker.dropna())) >= 2
