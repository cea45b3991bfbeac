"""A classifier of the user's own as the judge: real ONNX files, run for real, and files that are no judge."""

import hashlib
import pickle
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx_models import linear_model, saved

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import join, write_atomic
from dmt_ray.storage.models.onnx_judge import OnnxJudge, load_classifier

RED = np.array([[2.0, 0.0, 0.0]])
PICTURES = torch.rand(3, 3, 40, 30, generator=torch.Generator().manual_seed(0)) * 255
#: Smooth pictures keep their means whatever they are resized to.
PLAIN = torch.tensor([[10.0, 200.0, 60.0], [250.0, 0.0, 0.0]])[:, :, None, None].expand(2, 3, 40, 30)


def written(tmp_path, data: bytes) -> str:
    path = tmp_path / "judge.onnx"
    path.write_bytes(data)
    return str(path)


def decide(tmp_path, data: bytes, pictures: torch.Tensor = PLAIN) -> np.ndarray:
    found = OnnxJudge(load_classifier(written(tmp_path, data)))(pictures)
    assert found.dtype == torch.float64
    assert found.shape == (len(pictures),)
    return found.numpy()


@pytest.mark.parametrize("flat", [True, False])
def test_one_logit_is_the_decision_value(tmp_path, flat):
    found = decide(tmp_path, linear_model(RED, [-1.0], flat=flat))
    np.testing.assert_allclose(found, [2 * 10 / 255 - 1, 2 * 250 / 255 - 1], atol=1e-5)


def test_of_two_logits_the_target_less_the_source(tmp_path):
    found = decide(tmp_path, linear_model(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), [0.25, 0.0]))
    np.testing.assert_allclose(found, [(10 - 200) / 255 - 0.25, 250 / 255 - 0.25], atol=1e-5)


def test_pictures_come_as_the_model_says(tmp_path):
    normalised = linear_model(RED, [0.0], metadata={"dmt_ray.normalisation": "imagenet"})
    np.testing.assert_allclose(decide(tmp_path, normalised)[0], 2 * (10 / 255 - 0.485) / 0.229, atol=1e-4)
    plain = linear_model(RED, [0.0], metadata={"dmt_ray.normalisation": "none", "author": "somebody"})
    np.testing.assert_allclose(decide(tmp_path, plain)[0], 2 * 10 / 255, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "side"),
    [(("N", 3, 16, 24), (16, 24)), (("batch", 3, "h", "w"), (224, 224)), ((None, 3, 8, "w"), (8, 224))],
)
def test_pictures_are_resized_to_what_the_model_takes(tmp_path, shape, side):
    shape = [f"free{index}" if length is None else length for index, length in enumerate(shape)]
    classifier = load_classifier(written(tmp_path, linear_model(RED, [0.0], shape=shape)))
    assert classifier.side == side
    # The mean of an antialiased picture is about that of the picture.
    np.testing.assert_allclose(OnnxJudge(classifier)(PICTURES), 2 * PICTURES[:, 0].mean((1, 2)) / 255, atol=0.02)


def test_a_classifier_behind_a_uri_is_known_by_its_bytes(tmp_path, bucket):
    data = linear_model(RED, [0.0])
    write_atomic(join(bucket, "judge.onnx"), data)
    far, near = load_classifier(join(bucket, "judge.onnx")), load_classifier(written(tmp_path, data))
    assert far.sha256 == near.sha256 == hashlib.sha256(data).hexdigest()
    assert far.uri == f"{bucket}/judge.onnx"


def two_outputs() -> bytes:
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("ReduceMean", ["x"], [name], axes=[1, 2, 3], keepdims=0) for name in ("a", "b")]
    inputs = [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    return saved(helper.make_graph(nodes, "two", inputs, [info(n, TensorProto.FLOAT, ["N"]) for n in ("a", "b")]))


def two_inputs() -> bytes:
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["a"], axes=[1, 2, 3], keepdims=0),
    ]
    inputs = [info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in ("x", "y")]
    return saved(helper.make_graph(nodes, "two", inputs, [info("a", TensorProto.FLOAT, ["N"])]))


def of_one_number() -> bytes:
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("ReduceMean", ["x"], ["a"], keepdims=0)]
    inputs = [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    return saved(helper.make_graph(nodes, "one", inputs, [info("a", TensorProto.FLOAT, [])]))


def for_one_picture() -> bytes:
    """Say that N is free, and take one picture alone."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["a"], axes=[1], keepdims=0),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 192])
    inputs = [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    return saved(helper.make_graph(nodes, "one", inputs, [info("a", TensorProto.FLOAT, ["N"])], [shape]))


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (linear_model(RED, [0.0], shape=(1, 3, 8, 8)), r"inputs pictures tensor\(float\) \[1, 3, 8, 8\]"),
        (linear_model(np.ones((1, 3)), [0.0], shape=("N", "C", 8, 8)), r"inputs pictures .*'C', 8, 8"),
        (linear_model(RED, [0.0], kind=TensorProto.DOUBLE), r"inputs pictures tensor\(double\)"),
        (linear_model(np.ones((3, 3)), np.zeros(3)), r"gives \(2, 3\) for 2 pictures"),
        (two_inputs(), r"inputs x tensor\(float\) .*, y tensor"),
        (two_outputs(), r"outputs a tensor\(float\) .*, b tensor"),
        (of_one_number(), r"gives \(\) for 2 pictures"),
        (for_one_picture(), r"fails on 2 pictures of 8 x 8: "),
        (linear_model(RED, [0.0])[:-30], r"is no ONNX model in one file"),
        (b"", r"is no ONNX model in one file"),
        (pickle.dumps({"weights": [1, 2]}), r"is no ONNX model in one file"),
    ],
    ids=range(11),
)
def test_other_files_are_refused_with_what_they_have_and_what_is_needed(tmp_path, data, has):
    with pytest.raises(SettingsError, match=has) as caught:
        load_classifier(written(tmp_path, data))
    said = str(caught.value)
    assert said.startswith(f"The judge {tmp_path / 'judge.onnx'}")
    assert r"needs one float32 input (N, 3, H, W)" in said
    assert "\n" not in said


def test_an_unknown_normalisation_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"normalisation = 'clip' in its metadata_props, .* none or imagenet"):
        load_classifier(written(tmp_path, linear_model(RED, [0.0], metadata={"dmt_ray.normalisation": "clip"})))


def test_a_missing_file_and_a_missing_package_are_sentences(tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match=r"Cannot read the judge .*nowhere\.onnx"):
        load_classifier(str(tmp_path / "nowhere.onnx"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    with pytest.raises(SettingsError, match=r"needs onnxruntime: pip install 'dmt-ray\[judge\]'"):
        load_classifier(written(tmp_path, linear_model(RED, [0.0])))
