"""Launcher files and Dockerfile against what really reads them: Ray's own validation, hadolint, the job's options."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config

from dmt_ray.cli import parse_options
from dmt_ray.config import pool_range

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _ray_range():
    [requirement] = [r for r in map(Requirement, _project()["dependencies"]) if r.name == "ray"]
    return requirement.specifier


# -- Ray's cluster launcher

#: The extra that reads and writes the cloud's object store, and the scheme of its URIs.
STORES = {"aws.yaml": ("s3", "s3://"), "gcp.yaml": ("gcs", "gs://")}


@pytest.fixture(params=STORES)
def name(request) -> str:
    return request.param


@pytest.fixture
def launcher(name) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def test_ray_accepts_the_launcher_file(launcher):
    validate_config(prepare_config(launcher))


def test_ray_would_refuse_a_misspelt_launcher_file(launcher):
    """The validation above does something."""
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config({**launcher, "max_wrokers": 3}))


def test_launcher_nodes_are_what_the_job_needs(launcher):
    types = launcher["available_node_types"]
    assert types[launcher["head_node_type"]]["resources"] == {"CPU": 0}
    gpu = types["gpu"]
    assert gpu["resources"]["GPU"] >= 1
    assert gpu["resources"]["CPU"] >= 2  # GPU actors ask for none, Ray's own tasks need some
    assert gpu["min_workers"] == 0  # they come when the job asks for them
    assert sum(t.get("max_workers", 0) for t in types.values()) <= launcher["max_workers"]


def test_launcher_installs_this_checkout_with_a_ray_of_the_right_range(launcher, name):
    extra, _ = STORES[name]
    [(remote, local)] = launcher["file_mounts"].items()
    assert (ROOT / local / "pyproject.toml").is_file()
    assert any(f"{remote}[{extra}]" in command for command in launcher["setup_commands"])
    assert extra in _project()["optional-dependencies"]
    version = re.search(r"ray:(\d+\.\d+\.\d+)-py311", launcher["docker"]["image"])[1]
    assert Version(version) in _ray_range()


def test_launcher_says_how_to_run_the_job(name):
    text = (CLUSTER / name).read_text(encoding="utf-8")
    python, script, *arguments = shlex.split(re.search(r"cd dmt_ray && ([^\"]+)\"", text)[1])
    assert python == "python"
    assert (ROOT / script).is_file()
    config = parse_options("colorize", arguments)
    assert config.inputs.input.startswith(STORES[name][1])
    gpu = yaml.safe_load(text)["available_node_types"]["gpu"]
    assert pool_range(config.compute.reconstruction_actors) == (1, gpu["max_workers"] * gpu["resources"]["GPU"])
    assert config.compute.wait_for_gpus == 1


def test_gpu_machines_of_google_get_a_driver_and_may_not_move():
    """Google refuses machines with accelerators that are to be migrated; its images install the driver when asked."""
    launcher = yaml.safe_load((CLUSTER / "gcp.yaml").read_text(encoding="utf-8"))
    node = launcher["available_node_types"]["gpu"]["node_config"]
    assert {"onHostMaintenance": "TERMINATE"} in node["scheduling"]
    assert {"key": "install-nvidia-driver", "value": "True"} in node["metadata"]["items"]
    assert sum(each["acceleratorCount"] for each in node["guestAccelerators"]) == 1
    assert launcher["provider"]["availability_zone"].startswith(launcher["provider"]["region"])


def test_both_launcher_files_start_ray_in_the_same_way():
    aws, gcp = (yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8")) for name in STORES)
    for key in ("docker", "file_mounts", "rsync_exclude", "head_start_ray_commands", "worker_start_ray_commands"):
        assert aws[key] == gcp[key], key


# -- Dockerfile


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_passes_the_dockerfile(tmp_path):
    done = subprocess.run([HADOLINT, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    worse = tmp_path / "Dockerfile"
    worse.write_text(
        (CLUSTER / "Dockerfile").read_text(encoding="utf-8") + "RUN pip install nothing\n", encoding="utf-8"
    )
    done = subprocess.run([HADOLINT, worse], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DL3013" in done.stdout


def test_what_the_dockerfile_copies_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copies = re.findall(r"^COPY (?:--\S+ )*(.+)$", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"), re.M)
    sources = [source for line in copies for source in line.split()[:-1]]
    assert {"pyproject.toml", "dmt_ray", "jobs"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_what_the_build_needs_is_copied():
    """The package is built inside the image, from files that pyproject.toml names."""
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    for name in (_project()["readme"], *_project()["license-files"]):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", text, re.M), name
    extras = re.search(r'pip install --no-cache-dir "/home/ray/dmt_ray\[(.+)\]"', text)[1].split(",")
    assert set(extras) <= set(_project()["optional-dependencies"])


def test_the_early_torch_install_asks_for_what_the_package_asks_for():
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    for name in ("torch", "torchvision"):
        [wanted] = [r for r in map(Requirement, _project()["dependencies"]) if r.name == name]
        [given] = [r for r in map(Requirement, re.findall(r'"(torch[a-z]*[<>=!][^"]+)"', text)) if r.name == name]
        assert given.specifier == wanted.specifier
