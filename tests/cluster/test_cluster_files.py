"""The cluster files against what really reads them: Ray's own validation, the job's own options, this repository."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config

from dmt_ray.cli import parse_options

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _ray_range():
    [requirement] = [r for r in map(Requirement, _project()["dependencies"]) if r.name == "ray"]
    return requirement.specifier


def _parse(command: str):
    """Parse a job command line with the real parser; return the script's path and the configuration."""
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    return script, parse_options("colorize", arguments)


# -- AWS: Ray cluster launcher


@pytest.fixture(scope="module")
def launcher() -> dict:
    return yaml.safe_load((CLUSTER / "aws.yaml").read_text(encoding="utf-8"))


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
    assert gpu["min_workers"] == gpu["max_workers"]  # pools are sized once, when the job starts
    assert sum(t.get("max_workers", 0) for t in types.values()) <= launcher["max_workers"]


def test_launcher_installs_this_checkout_with_a_ray_of_the_right_range(launcher):
    [(remote, local)] = launcher["file_mounts"].items()
    assert (ROOT / local / "pyproject.toml").is_file()
    assert any(f"{remote}[s3]" in command for command in launcher["setup_commands"])
    assert "s3" in _project()["optional-dependencies"]
    version = re.search(r"ray:(\d+\.\d+\.\d+)-py311", launcher["docker"]["image"])[1]
    assert Version(version) in _ray_range()


def test_launcher_says_how_to_run_the_job():
    text = (CLUSTER / "aws.yaml").read_text(encoding="utf-8")
    command = re.search(r"cd dmt_ray && (python [^\"]+)\"", text)[1]
    script, config = _parse(command)
    assert (ROOT / script).is_file()
    assert config.inputs.input.startswith("s3://")


# -- Kubernetes: KubeRay RayJob


@pytest.fixture(scope="module")
def rayjob() -> dict:
    return yaml.safe_load((CLUSTER / "rayjob.yaml").read_text(encoding="utf-8"))


def _groups(rayjob) -> dict[str, dict]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def _container(group) -> dict:
    [container] = group["template"]["spec"]["containers"]
    return container


def test_rayjob_runs_this_very_job(rayjob):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    script, config = _parse(rayjob["spec"]["entrypoint"])
    workdir = re.search(r"^WORKDIR (\S+)$", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"), re.M)[1]
    assert (ROOT / Path(script).relative_to(workdir)).is_file()
    assert config.inputs.input.startswith("s3://")
    assert config.output.output.startswith("s3://")
    assert config.run.mode == "resume"  # backoffLimit starts the job again


def test_an_option_that_the_job_does_not_know_would_fail(rayjob):
    """The parsing above does something."""
    with pytest.raises(SystemExit):
        _parse(rayjob["spec"]["entrypoint"] + " --sise 96")


def test_rayjob_ends_by_itself_and_shows_its_end(rayjob):
    spec = rayjob["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert isinstance(spec["backoffLimit"], int)


def test_rayjob_images_are_one_and_its_ray_is_in_range(rayjob):
    images = {_container(group)["image"] for group in _groups(rayjob).values()}
    assert len(images) == 1
    assert images.pop().endswith(f"dmt-ray:{_project()['version']}")
    version = rayjob["spec"]["rayClusterSpec"]["rayVersion"]
    assert Version(version) in _ray_range()
    dockerfile = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert f"ARG RAY_IMAGE=rayproject/ray:{version}-py311" in dockerfile


def test_rayjob_resources_and_pools(rayjob):
    groups = _groups(rayjob)
    assert set(groups) == {"head", "cpu", "gpu"}
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    for name, group in groups.items():
        resources = _container(group)["resources"]
        assert resources["requests"] == resources["limits"], name
        assert ("nvidia.com/gpu" in resources["limits"]) == (name == "gpu")
        assert int(resources["limits"]["cpu"]) >= 2
        if name != "head":
            assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_rayjob_runtime_environment_is_yaml_and_matches_the_image(rayjob):
    environment = yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])
    cache = environment["env_vars"]["DMT_RAY_CACHE"]
    assert f"DMT_RAY_CACHE={cache}" in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")


def test_secrets_are_named_and_never_written(rayjob):
    for group in _groups(rayjob).values():
        assert _container(group)["envFrom"] == [{"secretRef": {"name": "dmt-ray-storage", "optional": True}}]
    for path in CLUSTER.iterdir():
        assert not re.search(r"(AKIA|SECRET_ACCESS_KEY\s*[:=]\s*\S)", path.read_text(encoding="utf-8")), path


# -- Dockerfile


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
    extras = re.search(r'pip install --no-cache-dir "\.\[(.+)\]"', text)[1].split(",")
    assert set(extras) <= set(_project()["optional-dependencies"])


def test_the_early_torch_install_asks_for_what_the_package_asks_for():
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    for name in ("torch", "torchvision"):
        [wanted] = [r for r in map(Requirement, _project()["dependencies"]) if r.name == name]
        [given] = [r for r in map(Requirement, re.findall(r'"(torch[a-z]*[<>=!][^"]+)"', text)) if r.name == name]
        assert given.specifier == wanted.specifier
