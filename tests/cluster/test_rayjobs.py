"""The RayJobs against KubeRay's and Kubernetes' own schemas, the job's own options, and this repository."""

import copy
import json
import re
import shlex
import tomllib
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from referencing import Registry, Resource

from dmt_ray.cli import parse_options
from dmt_ray.config import pool_range
from dmt_ray.errors import SettingsError
from dmt_ray.pipeline.resources import plan_pools
from dmt_ray.pipeline.waiting import wait_seconds

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
NAMES = ("rayjob.yaml", "rayjob-autoscaling.yaml", "rayjob-kueue.yaml")
#: Kubernetes' own schema, of the version that KubeRay 1.2 was made with, without unknown fields.
KUBERNETES = "kubernetes-json-schema/v1.30.0-local-strict"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def kubernetes() -> dict:
    text = (files("kubernetes_validate") / KUBERNETES / "_definitions.json").read_text(encoding="utf-8")
    definitions = json.loads(text)
    schema = json.loads((ROOT / "tests/data/kuberay_rayjob.schema.json").read_text(encoding="utf-8"))
    definitions["$defs"]["io.k8s.apimachinery.pkg.api.resource.Quantity"] = schema["$defs"]["Quantity"]
    return definitions


@pytest.fixture(scope="module")
def operator(kubernetes) -> jsonschema.Draft202012Validator:
    """KubeRay's schema of a RayJob, with the pods of Kubernetes'."""
    schema = json.loads((ROOT / "tests/data/kuberay_rayjob.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    registry = Registry().with_resource(kubernetes["$id"], Resource.from_contents(kubernetes))
    return jsonschema.Draft202012Validator(schema, registry=registry)


def _load(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


@pytest.fixture(params=NAMES)
def rayjob(request) -> dict:
    return _load(request.param)


def _groups(rayjob) -> dict[str, dict]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def _pods(rayjob) -> dict[str, dict]:
    pods = {name: group["template"]["spec"] for name, group in _groups(rayjob).items()}
    return {"submitter": rayjob["spec"]["submitterPodTemplate"]["spec"]} | pods


def _container(pod) -> dict:
    [container] = pod["containers"]
    return container


def test_the_operator_takes_it(operator, rayjob):
    operator.validate(rayjob)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec",), {"backofLimit": 0}),
        (("spec",), {"activeDeadlineSeconds": "172800"}),
        (("spec",), {"activeDeadlineSeconds": 2**31}),
        (("spec", "rayClusterSpec"), {"enableInTreeAutoScaling": True}),
        (("spec", "rayClusterSpec"), {"autoscalerOptions": {"upscalingMode": "Fast"}}),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1), {"replica": 2}),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec"), {"priorityClass": "low"}),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec"), {"tolerations": {"key": "a"}}),
        (("spec", "submitterPodTemplate", "spec", "containers", 0, "resources"), {"limits": {"cpu": "half"}}),
    ],
)
def test_the_operator_would_refuse(operator, path, value):
    """The validation above does something: misspelt fields, wrong types and wrong values, at every depth."""
    rayjob = copy.deepcopy(_load("rayjob.yaml"))
    operator.validate(rayjob)
    place = rayjob
    for key in path:
        place = place[key]
    place.update(value)
    with pytest.raises(jsonschema.ValidationError):
        operator.validate(rayjob)


def test_what_the_operator_demands_beyond_its_schema(rayjob):
    """KubeRay refuses these in its code."""
    spec = rayjob["spec"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["shutdownAfterJobFinishes"] is True  # a suspended job and a time to live both need it
    for name, group in _groups(rayjob).items():
        if name != "head":
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_every_run_has_a_name_of_its_own(rayjob):
    assert rayjob["metadata"]["generateName"].endswith("-")
    assert "name" not in rayjob["metadata"]


def _commands(rayjob) -> tuple[list[str], str, list[str]]:
    """Return the entrypoint's words, the job's script, and its words."""
    words = shlex.split(rayjob["spec"]["entrypoint"])
    workdir = re.search(r"^WORKDIR (\S+)$", DOCKERFILE, re.M)[1]
    second = words.index("python", 1)
    assert words[0] == "python"
    for script in (words[1], words[second + 1]):
        local = Path(script).relative_to(workdir)
        assert (ROOT / local).is_file()
        assert re.search(rf"^COPY .*\b({re.escape(str(local))}|{local.parts[0]}) ", DOCKERFILE, re.M), local
    return words[2:second], words[second + 1], words[second + 2 :]


def test_it_runs_this_very_job_and_repeats_it_on_one_code_alone(rayjob, entrypoint):
    options, _, job = _commands(rayjob)
    parsed = entrypoint.parser().parse_args([*options, "python", "job.py"])
    assert parsed.attempts > 1
    assert rayjob["spec"]["backoffLimit"] == rayjob["spec"]["submitterConfig"]["backoffLimit"] == 0
    config = parse_options("colorize", job)
    assert config.inputs.input.startswith("s3://")
    assert config.output.output.startswith("s3://")
    assert config.run.mode == "resume"  # the entrypoint starts the job again


def test_an_option_that_the_job_does_not_know_would_fail(rayjob):
    """The parsing above does something."""
    with pytest.raises(SettingsError, match="--sise is no option of colorize; did you mean --size"):
        parse_options("colorize", [*_commands(rayjob)[2], "--sise", "96"])


def test_images_are_one_and_their_ray_is_in_range(rayjob):
    images = {_container(pod)["image"] for pod in _pods(rayjob).values()}
    assert len(images) == 1
    assert images.pop().endswith(f"dmt-ray:{PROJECT['version']}")
    version = rayjob["spec"]["rayClusterSpec"]["rayVersion"]
    [ray] = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "ray"]
    assert Version(version) in ray.specifier
    assert f"ARG RAY_IMAGE=rayproject/ray:{version}-py311" in DOCKERFILE


def test_every_pod_can_be_placed_and_counted(rayjob):
    prerequisites = {each["kind"]: each["metadata"]["name"] for each in _prerequisites()}
    for name, pod in _pods(rayjob).items():
        assert pod["priorityClassName"] == prerequisites["PriorityClass"]
        assert pod["serviceAccountName"] == prerequisites["ServiceAccount"]
        assert pod["imagePullSecrets"] == [{"name": "dmt-ray-registry"}]
        assert pod["nodeSelector"]["kubernetes.io/arch"] == "amd64"
        resources = _container(pod)["resources"]
        assert resources["requests"] == resources["limits"], name
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])
        assert ("nvidia.com/gpu" in resources["limits"]) == (name == "gpu")


def test_only_workers_may_be_on_spot_nodes(rayjob):
    spot = {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}
    for name, pod in _pods(rayjob).items():
        keys = {each["key"] for each in pod.get("tolerations", [])}
        assert (spot <= keys) == (name in {"cpu", "gpu"}), name
        assert ("nvidia.com/gpu" in keys) == (name == "gpu")


def test_the_head_computes_nothing(rayjob):
    assert set(_groups(rayjob)) == {"head", "cpu", "gpu"}
    assert _groups(rayjob)["head"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayjob-kueue.yaml"])
def test_pools_that_are_fixed(name):
    rayjob = _load(name)
    assert "enableInTreeAutoscaling" not in rayjob["spec"]["rayClusterSpec"]
    for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_gpus_come_when_asked_for():
    rayjob = _load("rayjob-autoscaling.yaml")
    assert rayjob["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    gpu = _groups(rayjob)["gpu"]
    assert gpu["replicas"] == gpu["minReplicas"] == 0
    compute = parse_options("colorize", _commands(rayjob)[2]).compute
    gpus = int(_container(gpu["template"]["spec"])["resources"]["limits"]["nvidia.com/gpu"])
    least, most = pool_range(compute.reconstruction_actors)
    assert most == gpu["maxReplicas"] * gpus
    assert 1 <= least <= compute.wait_for_gpus <= most
    plan = plan_pools([{"GPU": float(gpus)}] * compute.wait_for_gpus, compute)  # what it begins with has room
    assert plan.reconstruction.num_gpus + plan.traversal.num_gpus <= gpus
    assert wait_seconds(compute) < rayjob["spec"]["activeDeadlineSeconds"]
    assert all(pod["restartPolicy"] == "Never" for pod in _pods(rayjob).values())


def test_kueue_takes_it():
    """What Kueue's webhook demands of a RayJob."""
    rayjob = _load("rayjob-kueue.yaml")
    assert rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert rayjob["spec"]["suspend"] is True
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True
    assert "clusterSelector" not in rayjob["spec"]
    assert len(rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]) <= 7  # 8 pod sets, one of them the head


def test_the_files_differ_in_nothing_else():
    """Two of the three are the first with what they are for."""
    plain, scaling, kueue = map(_load, NAMES)
    del kueue["metadata"]["labels"], kueue["spec"]["suspend"]
    assert kueue == plain
    for part in ("enableInTreeAutoscaling", "autoscalerOptions"):
        del scaling["spec"]["rayClusterSpec"][part]
    for rayjob in (plain, scaling):
        for name, group in _groups(rayjob).items():
            group["template"]["spec"].pop("restartPolicy", None)
            for part in ("replicas", "minReplicas", "maxReplicas") if name == "gpu" else ():
                del group[part]
        _, script, words = _commands(rayjob)
        own = words.index("--wait-for-gpus") if rayjob is scaling else None
        rayjob["spec"]["entrypoint"] = script, words[:own]
    assert scaling == plain


def test_runtime_environment_is_yaml_and_matches_the_image(rayjob):
    environment = yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"])
    cache = environment["env_vars"]["DMT_RAY_CACHE"]
    assert f"DMT_RAY_CACHE={cache}" in DOCKERFILE


def _prerequisites() -> list[dict]:
    return list(yaml.safe_load_all((CLUSTER / "prerequisites.yaml").read_text(encoding="utf-8")))


def test_kubernetes_takes_the_prerequisites(kubernetes):
    registry = Registry().with_resource(kubernetes["$id"], Resource.from_contents(kubernetes))
    types = {"ServiceAccount": "core.v1.ServiceAccount", "PriorityClass": "scheduling.v1.PriorityClass"}
    for each in _prerequisites():
        reference = {"$ref": f"{kubernetes['$id']}#/$defs/io.k8s.api.{types[each['kind']]}"}
        validator = jsonschema.Draft202012Validator(reference, registry=registry)
        validator.validate(each)
        assert not validator.is_valid({**each, "spec": {}})


def test_secrets_are_named_and_never_written(rayjob):
    for name, pod in _pods(rayjob).items():
        secrets = [{"secretRef": {"name": "dmt-ray-storage", "optional": True}}]
        assert _container(pod).get("envFrom") == (None if name == "submitter" else secrets)
    for path in CLUSTER.iterdir():
        if path.is_file():
            assert not re.search(r"(AKIA|SECRET_ACCESS_KEY\s*[:=]\s*\S)", path.read_text(encoding="utf-8")), path
