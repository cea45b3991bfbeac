"""A bank of references built at its place: gone on with, in bounded memory, and used like one made in a run."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_bank import EndedError, build, config_of, contents, make_small, save_references

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.jobs import bank_chunks, color_bank
from dmt_ray.jobs.exemplars import learn_exemplars, list_exemplars, make_editor
from dmt_ray.jobs.manifolds import apply_manifold_settings, read_manifold
from dmt_ray.method.colors import building
from dmt_ray.storage.models.manifolds import open_arrays, open_chunks
from dmt_ray.storage.models.weights import resolve_weights

COUNT = 7


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    save_references(folder, COUNT)
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def test_a_build_that_ended_goes_on_and_gives_the_same_bytes(references, tmp_path, monkeypatch):
    at_a_time = []
    read = bank_chunks.read_references

    def watched(config, part):
        found = read(config, part)
        at_a_time.append(len(found.pictures))
        return found

    for module in (bank_chunks, color_bank):
        monkeypatch.setattr(module, "read_references", watched)
    monkeypatch.setattr(building, "DESCRIBING_SAMPLE", 3)
    whole = build(references, tmp_path / "whole")
    assert (whole.references, whole.resumed, whole.prior, whole.skipped) == (COUNT, 0, True, [])
    assert at_a_time == [3, 2, 2, 2, 1]  # the sample, then a chunk at a time: never all
    with pytest.raises(EndedError):
        build(references, tmp_path / "ended", end_after=3)
    assert "manifold.json" not in contents(tmp_path / "ended")
    at_a_time.clear()
    monkeypatch.setattr(color_bank, "learn_describing", None)  # threads or a device would make it another one
    assert build(references, tmp_path / "ended").resumed == 3
    assert at_a_time == [1]
    assert contents(tmp_path / "ended") == contents(tmp_path / "whole")


def test_a_run_with_the_bank_colours_as_one_that_builds_its_own(references, tmp_path):
    build(references, tmp_path / "bank")
    weights = resolve_weights("vgg16", "random:0").arrays
    own = config_of(references)
    arrays, _ = learn_exemplars(weights, list_exemplars(own), own, "cpu")
    saved = config_of(None, str(tmp_path / "bank"))
    manifold = read_manifold(saved)
    assert manifold is not None
    saved = apply_manifold_settings(saved, manifold)
    kept = open_arrays(str(tmp_path / "bank"))[1]
    assert "patches" not in kept  # they stay where they are until an image needs them
    patches = open_chunks(str(tmp_path / "bank"), "patches").rows(range(COUNT))
    np.testing.assert_allclose(patches.astype(np.float32), arrays["patches"].astype(np.float32), atol=2e-2)
    editors = make_editor(weights, arrays, own, "cpu"), make_editor(weights, kept, saved, "cpu")
    picture = editors[0].working(np.array(Image.open(references / "3.png")))[None]
    ours, theirs = (editor.reconstruct(picture, editor.traverse(picture, []), [None])[0][0] for editor in editors)
    np.testing.assert_allclose(ours.planes, theirs.planes, atol=0.5)
    assert ours.figures.confidence == pytest.approx(theirs.figures.confidence, abs=0.01)


def test_a_bank_serves_other_sizes_and_not_another_traversal(references, tmp_path):
    build(references, tmp_path / "bank")
    config = config_of(None, str(tmp_path / "bank")).with_options({"size": 96, "taps": ("conv2_1",)})
    manifold = read_manifold(config)
    assert manifold is not None
    assert apply_manifold_settings(config, manifold).model.size == 96
    with pytest.raises(SettingsError, match="--traversal is global"):
        apply_manifold_settings(config.with_options({"traversal": "global"}), manifold)


def test_references_that_cannot_be_used_are_left_out(references, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (0, 1, 2):
        (folder / f"{number}.png").write_bytes((references / f"{number}.png").read_bytes())
    Image.new("RGB", (40, 40), (90, 90, 90)).save(folder / "3.png")
    (folder / "4.png").write_bytes(b"no picture")
    built = build(folder, tmp_path / "bank")
    assert built.references == 3
    assert [line.partition(":")[0] for line in built.skipped] == ["3.png", "4.png"]
    assert len(open_arrays(str(tmp_path / "bank"))[1]["scenes"]) == 3
    for number in (0, 1, 2):
        (folder / f"{number}.png").unlink()
    with pytest.raises(SettingsError, match="None of the 2 references"):
        build(folder, tmp_path / "none")


def test_fit_makes_a_bank_on_the_command_line(references, tmp_path, capsys):
    words = ["fit", "--reference", str(references), "--weights", "random:0", "--output", str(tmp_path / "bank")]
    assert cli.main(words) == 0
    assert f"{COUNT} references, 0 left out" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert "4 chunks were there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit", "--reference", "a", "--source", "b", "--output", "c"], "--source is 'b'"),
        (["fit", "--output", "c"], "--source is None"),
        (["fit", "--reference", "a", "--normalise", "--output", "c"], "--normalise is True"),
        (["fit", "--reference", "a", "--ray-address", "head", "--output", "c"], "--ray-address is 'head'"),
        (
            ["fit", "--source", "a", "--target", "b", "--ray-address", "local", "--output", "c"],
            "--ray-address is 'local'; it must be left out without --reference",
        ),
        (["colorize", "--input", "a", "--output", "c"], "--reference is None"),
        (["colorize", "--input", "a", "--reference", "b", "--manifold", "m", "--output", "c"], "--reference is 'b'"),
        (["colorize", "--input", "a", "--reference", "b", "--prior", "of", "--output", "c"], "prior"),
    ],
)
def test_options_that_do_not_go_together_are_told(words, told, capsys):
    code: object = None
    with contextlib.suppress(SystemExit):
        code = cli.main(words)
    assert code in (None, 2)  # a bad word ends the process
    captured = capsys.readouterr()
    assert told in captured.err + captured.out
