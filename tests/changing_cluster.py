"""Run a command on a cluster of several nodes whose nodes come and go: ``SCENARIO STATE.json COMMAND...``.

A scenario is a function of this module. It is played beside the command, and notes in STATE.json what it saw.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_get

PATIENCE = 200
STARTS = 3
DRIVER = "import sys, hooked_tint_job; from dmt_ray import cli; sys.exit(cli.main(sys.argv[1:]))"
#: CPUs that a reconstruction actor with one thread asks for.
RECONSTRUCTION = 0.875
KINDS = ("TraversalActor", "ReconstructionActor")


class Scenario:
    """A cluster with a head that has no CPUs, the output of the run on it, and what was seen."""

    def __init__(self, out: Path) -> None:
        self.out, self.seen, self.nodes, self.runs = out, {}, [], lambda: True
        self.processes: list[subprocess.Popen] = []
        self.cluster = Cluster()
        self.add(cpus=0, include_dashboard=False)
        self.nodes.clear()

    def add(self, cpus: int, **options: object) -> None:
        """Add a node. Ray gives one 30 s to start, which is too few on a busy machine: it may be started again."""
        for left in reversed(range(STARTS)):
            try:
                self.nodes.append(self.cluster.add_node(num_cpus=cpus, **options))
            except Exception:
                if not left:
                    raise
            else:
                return

    def remove(self, node) -> None:
        """Let a node disappear, with all its processes."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def start_blocking(self, cpus: int) -> tuple[subprocess.Popen, str]:
        """Add a node as a container does, by ``ray start --block``; return its process and the node's id."""
        known = {node["NodeID"] for node in ray.nodes()}
        options = {"address": self.cluster.address, "num-cpus": cpus, "object-store-memory": 10**8}
        options |= {"min-worker-port": 0, "max-worker-port": 0, "dashboard-agent-listen-port": 0}
        words = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words],
            stdout=sys.stderr,
        )
        self.processes.append(process)
        self.until(lambda: self.living() - known, "node")
        (node,) = self.living() - known
        return process, node

    def living(self) -> set[str]:
        """The ids of the nodes that live."""
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def shards(self) -> int:
        """How many shards are committed."""
        return len(list(self.out.glob("shards/shard-*")))

    def until(self, condition, what: str) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            assert self.runs(), f"the run has ended, and there was no {what}"
            time.sleep(0.1)

    def demand(self) -> int:
        """How many reconstruction actors wait for room, as Ray's autoscaler state has it."""
        found = get_cluster_status(self.cluster.address).resource_demands.ray_task_actor_demand
        counts = [each for demand in found for each in demand.bundles_by_count]
        return sum(each.count for each in counts if each.bundle.get("CPU") == RECONSTRUCTION)

    def asked(self) -> int:
        """For how many bundles the autoscaler was asked by name."""
        return len(json.loads(_internal_kv_get("autoscaler_resource_request") or "[]"))

    def kinds(self) -> set[str]:
        """The kinds of all actors, those included that are still starting and that are dead."""
        return {actor["ActorClassName"] for actor in ray._private.state.actors().values()}

    def actors(self, kind: str) -> dict[str, list[int]]:
        """The process ids of the living actors of a kind on each node."""
        living = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
        mine = [actor for actor in living if actor["ActorClassName"] == kind]
        nodes = {actor["Address"]["NodeID"] for actor in mine}
        return {node: [actor["Pid"] for actor in mine if actor["Address"]["NodeID"] == node] for node in nodes}


def grow(scenario: Scenario) -> None:
    """The first node comes while the run waits; another 10 s after the first shard; the first goes, and one comes."""
    scenario.seen["asked_while_waiting"] = scenario.asked()
    scenario.seen["began_without_nodes"] = scenario.shards()
    scenario.add(cpus=1)
    scenario.until(scenario.shards, "a shard")
    time.sleep(10)
    scenario.until(scenario.demand, "demand")
    scenario.seen["demand"] = scenario.demand()
    scenario.add(cpus=1)
    scenario.until(lambda: len(scenario.actors("ReconstructionActor")) == 2, "an actor on the second node")
    scenario.seen["on_two"] = scenario.actors("ReconstructionActor")
    scenario.seen["second"] = scenario.nodes[1].node_id
    before = scenario.shards()
    scenario.until(lambda: scenario.shards() > before + 6, "shards of both nodes")
    scenario.remove(scenario.nodes[0])
    scenario.add(cpus=1)


def spot(scenario: Scenario) -> None:
    """Of three nodes one is lost every 20 seconds, and another one comes."""
    for _ in range(3):
        scenario.add(cpus=1)
    scenario.until(scenario.shards, "a shard")
    chance = random.Random(0)
    scenario.seen["lost"] = 0
    while scenario.runs():
        scenario.remove(chance.choice(scenario.nodes))
        scenario.seen["lost"] += 1
        scenario.add(cpus=1)
        time.sleep(20)


def drain(scenario: Scenario) -> None:
    """A node is given notice, and goes half a minute later."""
    from ray._raylet import GcsClient

    for _ in range(2):
        scenario.add(cpus=1)
    scenario.until(scenario.shards, "a shard")
    scenario.until(lambda: len(scenario.actors("ReconstructionActor")) == 2, "actors on both nodes")
    node = scenario.nodes[0]
    gcs = GcsClient(address=scenario.cluster.address)
    deadline = int((time.time() + 60) * 1000)
    assert gcs.drain_node(node.node_id, 2, "spot", deadline)[0]
    scenario.seen["noticed"] = scenario.shards()
    scenario.until(lambda: node.node_id not in scenario.actors("ReconstructionActor"), "actors to leave")
    scenario.seen["left"] = scenario.shards()
    scenario.remove(node)


def terminate(scenario: Scenario) -> None:
    """SIGTERM as clouds send it: to ``ray start --block`` of one node, which drains, and then to another's raylet."""
    process, node = scenario.start_blocking(cpus=1)
    scenario.add(cpus=1)
    scenario.until(scenario.shards, "a shard")
    scenario.until(lambda: len(scenario.actors("ReconstructionActor")) == 2, "actors on both nodes")
    scenario.seen["drained"] = scenario.actors("ReconstructionActor")[node]
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    scenario.until(lambda: node not in scenario.living(), "end of the first node")
    scenario.seen["seconds"] = time.monotonic() - began
    scenario.seen["shards_when_drained"] = scenario.shards()
    scenario.add(cpus=1)
    going = scenario.nodes[0]
    scenario.until(lambda: len(scenario.actors("ReconstructionActor")) == 2, "an actor on the third node")
    scenario.seen["ended"] = [pid for kind in KINDS for pid in scenario.actors(kind).get(going.node_id, [])]
    (raylet,) = going.all_processes["raylet"]
    raylet.process.send_signal(signal.SIGTERM)
    scenario.until(lambda: going.node_id not in scenario.living(), "end of the second node")
    scenario.seen["shards_when_ended"] = scenario.shards()


def isolate(scenario: Scenario) -> None:
    """A shard kills its actors, and runs image by image; twice the node that does its image gets SIGTERM."""
    hooks = Path(os.environ["DMT_RAY_TEST_HOOKS"])
    (hooks / "kill-in-stage").touch()
    for _ in range(3):
        scenario.add(cpus=1)
    scenario.until(lambda: "IsolationActor" in scenario.kinds(), "isolation")
    (hooks / "kill-in-stage").unlink()

    def working() -> list:
        """The nodes where a process has an image."""
        found = scenario.actors("IsolationActor")
        begun = {node for node, pids in found.items() if any((hooks / f"in-stage-{pid}").exists() for pid in pids)}
        return [node for node in scenario.nodes if node.node_id in begun]

    for _ in range(2):
        scenario.until(working, "an image alone")
        (node,) = working()
        scenario.nodes.remove(node)
        (raylet,) = node.all_processes["raylet"]
        raylet.process.send_signal(signal.SIGTERM)
        scenario.until(lambda gone=node.node_id: gone not in scenario.living(), "end of its node")


def main(name: str, state: Path, command: list[str]) -> int:
    """Run the command beside a scenario, which is played here: nodes need a main thread. Return its exit code."""
    scenario = Scenario(Path(command[command.index("--output") + 1]))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *command], env={**os.environ, "RAY_ADDRESS": scenario.cluster.address}
    )
    try:
        ray.init(address=scenario.cluster.address, logging_level="warning", log_to_driver=False)
        scenario.runs = lambda: driver.poll() is None
        # The run joins while there is the head alone: all nodes are of one address, and it would join any of them.
        scenario.until(scenario.asked, "request for nodes")
        globals()[name](scenario)
        code = driver.wait(PATIENCE)
        scenario.seen["asked_at_the_end"] = scenario.asked()
        state.write_text(json.dumps(scenario.seen))
    finally:
        driver.kill()
        ray.shutdown()
        for process in scenario.processes:
            process.terminate()
            process.wait(PATIENCE)
        scenario.cluster.shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
