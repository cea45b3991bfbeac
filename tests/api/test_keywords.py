"""The API's keywords are the jobs' options: every name, every type; what is wrong with one is told by its name."""

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import dmt_ray
from dmt_ray.api import keywords as kw
from dmt_ray.config import ComputeConfig, MaskConfig, RunConfig
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.jobs.option_values import option_value
from dmt_ray.jobs.transform import TransformConfig
from dmt_ray.options import option_types

#: Options that a model does not have, and why.
OF_RUNS = {
    *("input", "input_kind", "where", "sample", "limit", "displacements"),  # what a run lists
    *("output", "shard_size", "traversal_only"),  # where it writes
    *(field.name for kind in (RunConfig, ComputeConfig) for field in dataclasses.fields(kind)),  # how it works
    *(field.name for field in dataclasses.fields(MaskConfig)),  # edit() takes the mask itself
    *("attribute_columns", "neighbors_by"),  # of tables of inputs
} - {"batch_size", "allow_cpu_fallback"}
#: Options that are parameters of their own.
PARAMETERS = {"reference", "source", "target", "basis", "manifold"}


@pytest.mark.parametrize(
    ("config", "fit", "own"),
    [(ColorizeConfig, kw.ColorizerFit, set()), (TransformConfig, kw.TransformerFit, {"image_column", "uri_column"})],
)
def test_every_option_is_a_keyword_of_its_type(config, fit, own):
    options = option_types(config)
    asked = typing.get_type_hints(fit)
    assert set(asked) == set(options) - OF_RUNS - PARAMETERS - own
    for name, kind in asked.items():
        assert kind in _forms(options[name]), name


def _forms(kind):
    """Return the types that a keyword may have for an option's."""
    if typing.get_origin(kind) is not tuple:
        return [kind]
    (inner,) = (each for each in typing.get_args(kind) if each is not Ellipsis)
    return [Sequence[inner], inner | Sequence[inner]]


def test_what_fit_decides_is_no_keyword_of_an_edit():
    for edit, load, fit in (
        (kw.ColorizerEdit, kw.ColorizerLoad, kw.ColorizerFit),
        (kw.TransformerEdit, kw.TransformerLoad, kw.TransformerFit),
    ):
        edit, load, fit = (set(typing.get_type_hints(each)) for each in (edit, load, fit))
        decided = {"backbone", "taps", "size", "normalise", "traversal", "standardise"}
        assert edit < load < fit
        assert not decided & load
        assert "strength" not in edit


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_the_documents_call_what_there_is(document):
    """Every Python block is Python, names what dmt_ray has, and calls models with keywords that they take."""
    text = (Path(__file__).parents[2] / document).read_text(encoding="utf-8")
    calls = 0
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "dmt_ray":
                assert hasattr(dmt_ray, node.attr), node.attr
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CALLED:
                calls += 1
                given = {keyword.arg for keyword in node.keywords}
                assert given <= _CALLED[node.func.attr], ast.unparse(node)
    assert calls >= 5


_CALLED = {
    name: {
        keyword
        for model, typed in ((dmt_ray.Colorizer, "Colorizer"), (dmt_ray.Transformer, "Transformer"))
        for keyword in (
            *inspect.signature(getattr(model, name)).parameters,
            *typing.get_type_hints(getattr(kw, typed + ending)),
        )
    }
    for name, ending in (("fit", "Fit"), ("load", "Load"), ("edit", "Edit"), ("path", "Edit"), ("for_ray", "Edit"))
} | {"of": {*option_types(ColorizeConfig), *option_types(TransformConfig)}}


def test_keywords_that_are_not_there_are_named():
    noise = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(TypeError, match=r"Colorizer\.fit\(\) has no keyword 'sise'; did you mean 'size'\?"):
        dmt_ray.Colorizer.fit(noise, sise=32)
    with pytest.raises(TypeError, match=r"Transformer\.fit\(\) has no keyword 'shard_size': .* whole runs"):
        dmt_ray.Transformer.fit(noise, noise, shard_size=2)
    with pytest.raises(SettingsError, match="--size is '32'; it must be a whole number"):
        dmt_ray.Colorizer.fit(noise, size="32")
    with pytest.raises(SettingsError, match="--size is 33; it must be a multiple of 16"):
        dmt_ray.Colorizer.fit(noise, size=33)
    with pytest.raises(SettingsError, match="--source-where is for exemplars in tables"):
        dmt_ray.Transformer.fit(noise, noise, source_where="age < 3")


@pytest.mark.parametrize(
    ("value", "kind", "made"),
    [
        (np.float32(2), tuple[float, ...], (2.0,)),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ("eyeglasses,male", tuple[str, ...], ("eyeglasses", "male")),
        (np.int64(3), int | None, 3),
        (None, int | None, None),
        (True, bool, True),
        (types.SimpleNamespace(), str, None),
        ("yes", bool, None),
        (True, int, None),
        (2.5, int, None),
        ("1", float | None, None),
        ("keep", typing.Literal["keep", "none"], "keep"),
        ("some", typing.Literal["keep", "none"], None),
    ],
)
def test_values_of_python_become_those_of_the_options(value, kind, made):
    if made is None and value is not None:
        with pytest.raises(SettingsError, match=r"--the-option is .*; it must be "):
            option_value("the_option", value, kind)
    else:
        found = option_value("the_option", value, kind)
        assert (found, type(found)) == (made, type(made))


def test_options_of_a_run_are_made_from_keywords(tmp_path):
    config = ColorizeConfig.of(input=tmp_path, reference="colour/", output="out/", strength=[1, 2], taps="conv3_1")
    assert config.inputs.input == str(tmp_path)
    assert (config.strengths, config.model.taps, config.output.shard_size) == ((1.0, 2.0), ("conv3_1",), 32)
    with pytest.raises(TypeError, match="ColorizeConfig needs input"):
        ColorizeConfig.of(reference="colour/", output="out/")
    with pytest.raises(TypeError, match="ColorizeConfig has no option source"):
        ColorizeConfig.of(input="a", reference="colour/", output="out/", source="b")
