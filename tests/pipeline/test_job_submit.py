"""``ray job submit`` against a cluster of its own that asks for a token, as a cluster of today's Ray does."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from real_prometheus import needs_prometheus, running_prometheus

ROOT = Path(__file__).parent.parent.parent
RAY = Path(sys.executable).parent / "ray"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    """Start a head on loopback with its own ports, folder and token, and end only it.

    Yields the dashboard's address, the folder, and a user's environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="dmt", dir="/tmp"))  # sockets live in it: the path must be short
    dashboard = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "RAY_TMPDIR": str(folder)}
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(secrets.token_hex(32))  # as any local Ray leaves it
    options = {
        "node-ip-address": "127.0.0.1",
        "port": free_port(),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
        "temp-dir": folder / "ray",
        "num-cpus": 2,
    }
    log = (folder / "start.log").open("w")
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--disable-usage-stats", *(f"--{k}={v}" for k, v in options.items())],
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(dashboard, head, folder)
        yield f"http://127.0.0.1:{dashboard}", folder, env
    finally:
        end_processes_of(folder)
        head.wait(20)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(port, head, folder):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, (folder / "start.log").read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError((folder / "start.log").read_text())


def end_processes_of(folder):
    """Kill what is left of the cluster in ``folder``: only processes whose command line names it."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and str(folder).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue


def test_a_submitted_job_does_the_same_and_tells_its_exit_code(cluster, photos, tmp_path):
    address, folder, user = cluster
    env = user | {"RAY_AUTH_MODE": "token"}
    options = ["--input", photos / "inputs", "--reference", photos / "references", "--output", tmp_path / "out"]
    options += [
        "--size",
        64,
        "--weights",
        "random:0",
        "--iterations",
        2,
        "--neighbors",
        8,
        "--shard-size",
        3,
        "--no-lpips",
    ]

    def submit(name, *more, env=env):
        command = [RAY, "job", "submit", "--address", address, "--working-dir", ROOT, "--submission-id", name]
        command += ["--", "python", "jobs/colorize_dataset.py", *options, *more]
        deadline = time.monotonic() + 120
        while True:
            ended = subprocess.run(
                [*map(str, command)], capture_output=True, text=True, timeout=240, env=env, cwd=ROOT
            )
            starting = "No available agent" in ended.stdout + ended.stderr  # the dashboard answers before its agents
            if not starting or time.monotonic() > deadline:
                return ended
            time.sleep(2)

    good = submit("good", "--max-error-rate", 0.5, "--metrics")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "6 planned, 6 rows: 4 ok, 2 errors." in good.stdout
    frame = pd.read_parquet(str(tmp_path / "out" / "shards"))
    assert sorted(frame.status) == ["error"] * 2 + ["ok"] * 4

    token = (folder / ".ray" / "auth_token").read_text()
    elsewhere = env | {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": token}  # as on a machine without the token's file
    many = submit("many", "--max-error-rate", 0, env=elsewhere)
    assert many.returncode == 1  # ray job submit knows only 0 and 1; the log and the job's record say which
    assert "more than --max-error-rate 0.0%" in many.stdout
    assert "exit code 4" in many.stdout

    refused = submit("refused", env=user)
    assert refused.returncode == 1
    assert "AuthenticationError: Authentication required" in refused.stderr

    # Beside the head no address is needed, and Ray sends the token by itself.
    joining = "import logging\nfrom dmt_ray.pipeline.cluster import Cluster\nlogging.basicConfig(level='INFO')\n"
    joined = subprocess.run(
        [sys.executable, "-c", joining + "with Cluster():\n    pass\n"],
        env=user,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    file = folder / "ray" / "ray_current_cluster"
    assert joined.returncode == 0, joined.stderr
    assert (
        f"Ray: joined {file.read_text()} (the last one that was started here, by {file}); nodes 1," in joined.stderr
    )
    assert f"CPUs 2, GPUs 0, dashboard {address}." in joined.stderr
    assert "Token authentication" not in joined.stderr

    uploads = [path for path in folder.glob("ray/session_2*/runtime_resources/working_dir_files/*") if path.is_dir()]
    assert uploads
    for uploaded in uploads:
        assert (uploaded / "jobs" / "colorize_dataset.py").exists()
        assert not (uploaded / ".venv").exists()
        assert not (uploaded / ".git").exists()


@needs_prometheus
def test_prometheus_finds_the_nodes_as_the_readme_says(cluster, tmp_path):
    """The good run's last figures are there, although its processes ended right after its last shard."""
    address, folder, _ = cluster
    readme = (ROOT / "cluster" / "README.md").read_text(encoding="utf-8")
    configs = [
        config
        for block in re.findall(r"```yaml\n(- job_name: ray.*?)```", readme, re.S)
        for config in yaml.safe_load(block)
    ]
    (by_file,), (by_http,) = (
        [config for config in configs if kind in config] for kind in ("file_sd_configs", "http_sd_configs")
    )
    (discovery,) = by_file["file_sd_configs"]
    discovery["files"] = [re.sub("^/tmp/ray/", f"{folder}/ray/", file) for file in discovery["files"]]
    (discovery,) = by_http["http_sd_configs"]
    discovery["url"] = discovery["url"].replace("http://HEAD:8265", address)
    discovery["authorization"]["credentials_file"] = str(folder / ".ray" / "auth_token")
    for config, found in ((by_file, "file"), (by_http, "http")):
        config["metric_relabel_configs"] = [{"target_label": "found", "replacement": found}]
    by_http["job_name"] = "by-http"
    with running_prometheus(tmp_path / "prometheus", [by_file, by_http]) as prometheus:
        for found in ("file", "http"):
            prometheus.wait_for(f'sum(ray_dmt_ok_rows_total{{found="{found}"}})', 4)
            errors = prometheus.values(f'ray_dmt_error_rows_total{{found="{found}"}} > 0')
            assert {(labels["error_type"], value) for labels, value in errors} == {("empty", 1), ("truncated", 1)}
