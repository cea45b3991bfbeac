"""Run a job beside a head node that ends as soon as it has said that it is there: ``COMMAND...``."""

from __future__ import annotations

import subprocess
import sys
import time

from dmt_ray import cli
from dmt_ray.pipeline import cluster, ray_address

OPTIONS = ("--port=0", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats")
PATIENCE = 100

assert cluster.ask is ray_address.ask  # which the join asks again: that is the real one throughout
ask = ray_address.ask


def ask_and_end(address: str) -> str | None:
    """Return the answer of the head, and end it."""
    answer = ask(address)
    head.terminate()
    head.wait(PATIENCE)
    return answer


def is_up() -> bool:
    """Whether Ray has said where the head is, and it answers."""
    found = ray_address._read(f"{ray_address.ray_folder()}/ray_current_cluster", submitted=False)
    return isinstance(found, ray_address.RayAddress)


WORDS = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *OPTIONS]
head = subprocess.Popen(WORDS, stdout=subprocess.DEVNULL)
try:
    deadline = time.monotonic() + PATIENCE
    while not is_up():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ray_address.ask = ask_and_end
    code = cli.main(sys.argv[1:])
finally:
    head.kill()
    head.wait()
sys.exit(code)
