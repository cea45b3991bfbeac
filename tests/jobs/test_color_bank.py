"""A bank of references built at its place: gone on with, in bounded memory, and used like one made in a run."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmt_ray import cli
from dmt_ray.config import InputConfig, OutputConfig
from dmt_ray.errors import SettingsError
from dmt_ray.jobs import bank_chunks, color_bank
from dmt_ray.jobs.color_bank import build_color_bank
from dmt_ray.jobs.colorize import ColorizeConfig, ReferenceConfig
from dmt_ray.jobs.exemplars import content_checksum, learn_exemplars, list_exemplars, make_editor
from dmt_ray.jobs.manifolds import apply_manifold_settings, read_manifold
from dmt_ray.method.colors import building
from dmt_ray.method.settings import ModelConfig, TraversalConfig
from dmt_ray.storage.models.manifolds import open_arrays, open_chunks
from dmt_ray.storage.models.weights import resolve_weights

COUNT, CHUNK = 7, 2


class EndedError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(color_bank, "CHUNK", CHUNK)
    small = building.PriorSettings(members=2, hidden=(16, 8), epochs=2, batch=64)
    monkeypatch.setattr(color_bank, "PriorSettings", lambda: small)
    monkeypatch.setattr(building, "PriorSettings", lambda: small)


def config_of(references: Path | None, place: str | None = None) -> ColorizeConfig:
    return ColorizeConfig(
        inputs=InputConfig("unused"),
        output=OutputConfig("unused"),
        references=ReferenceConfig(None if references is None else str(references), manifold=place),
        model=ModelConfig(size=64, weights="random:0", precision="fp32"),
        traversal=TraversalConfig(prior="on" if place is None else "auto"),
    )


def build(references: Path, place: Path, *, end_after: int | None = None) -> color_bank.BuiltBank:
    config = config_of(references)
    found = list_exemplars(config)["reference"]
    weights = resolve_weights("vgg16", "random:0")

    def on_chunk(done: int, total: int) -> None:
        assert total == -(-len(found.items) // CHUNK)
        if done == end_after:
            raise EndedError

    content = content_checksum(config, "reference", found)
    return build_color_bank(str(place), config, found, weights.arrays, weights.sha256, content, "cpu", on_chunk)


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


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
    assert build(references, tmp_path / "ended").resumed == 3
    assert at_a_time == [3, 1]
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
