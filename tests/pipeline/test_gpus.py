"""The device of an actor: the GPU that Ray gave it, or an error that names the node and the driver."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from dmt_ray.pipeline import devices
from dmt_ray.pipeline.devices import NoDeviceError, claim_device, complaint_in, cuda_trouble, device_name

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")

#: Runs on a Ray that says it has a GPU: as it is, with only the actors' node broken, and with the CPU allowed.
RUNS = """
import dataclasses, json, sys
import ray
from dmt_ray.cli import main
from dmt_ray.pipeline import sharing

ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="warning")
words, out = json.loads(sys.argv[1]), sys.argv[2]
codes = [main([*words, "--output", out + "/broken"])]
learn = sharing.make_exemplars

def on_another_node(arrays, sets, config, *rest):
    compute = dataclasses.replace(config.compute, allow_cpu_fallback=True)
    return learn(arrays, sets, dataclasses.replace(config, compute=compute), *rest)

sharing.make_exemplars = on_another_node
codes.append(main([*words, "--output", out + "/actors"]))
sharing.make_exemplars = learn
codes.append(main([*words, "--output", out + "/allowed", "--allow-cpu-fallback"]))
print("codes", codes, flush=True)
ray.shutdown()
"""


def test_an_actor_without_a_gpu_computes_on_the_cpu():
    assert claim_device([], "10.0.0.1", allow_cpu=False) == "cpu"
    assert device_name("cpu") == "cpu"


@no_cuda
def test_a_gpu_that_does_not_answer_is_an_error_with_node_and_reason(caplog):
    with pytest.raises(NoDeviceError, match=r"Ray gave GPU 3 of node 10\.0\.0\.1, .*driver") as caught:
        claim_device(["3"], "10.0.0.1", allow_cpu=False)
    assert f"PyTorch {torch.__version__}" in str(caught.value)
    assert "--allow-cpu-fallback" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert claim_device(["3"], "10.0.0.1", allow_cpu=True) == "cpu"
    assert "10.0.0.1" in caplog.text


@no_cuda
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'NVIDIA H100 80GB HBM3, 580.159.04'", "nvidia-smi says: NVIDIA H100 80GB HBM3, 580.159.04."),
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
            "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch.",
        ),
        ("exit 9", "nvidia-smi says: nothing (exit code 9)."),
        ("exec sleep 60", "nvidia-smi does not answer (TimeoutExpired)."),
    ],
)
def test_the_drivers_own_words_are_told(script, said, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(devices, "_SMI_S", 0.5)
    assert said in str(cuda_trouble())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_answers_is_taken_and_named():
    assert cuda_trouble() is None
    assert claim_device([0], "10.0.0.1", allow_cpu=False) == "cuda:0"
    assert device_name("cuda:0") == f"cuda:{torch.cuda.get_device_name(0)}"


def test_the_sentence_is_found_in_what_ray_tells_of_an_actor():
    text = (
        "The actor died because of an error raised in its creation task\n  File x\ndmt_ray.NoDeviceError: So it is.\n"
    )
    assert complaint_in(RuntimeError(text)) == "So it is."
    assert complaint_in(RuntimeError("killed")) is None


@no_cuda
def test_runs_on_a_node_whose_gpu_does_not_answer(photos, tmp_path):
    """Exit code 2 and nothing done, whoever finds it; with --allow-cpu-fallback every row tells of the CPU."""
    words = [
        *("colorize", "--input", str(photos / "inputs"), "--reference", str(photos / "references")),
        *("--size", "64", "--weights", "random:0", "--iterations", "1", "--neighbors", "4", "--no-lpips"),
        *("--threads-per-actor", "1", "--no-progress", "--max-error-rate", "1"),
    ]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(words), str(tmp_path)],
        capture_output=True, text=True, timeout=280, env=environment,
    )  # fmt: skip
    assert "codes [2, 2, 0]" in done.stdout, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(errors) == 2, done.stderr
    assert all("Ray gave GPU 0 of node " in line and "--allow-cpu-fallback" in line for line in errors)
    assert "Unhandled error" not in done.stderr
    assert not (tmp_path / "broken").exists()
    assert not list(Path(tmp_path / "actors" / "shards").glob("*"))
    rows = pq.read_table(tmp_path / "allowed" / "shards").to_pylist()
    assert len(rows) == 6
    assert {row["device"] for row in rows} == {"cpu"}
    assert all(" gpu 0" in row["worker"] for row in rows)
