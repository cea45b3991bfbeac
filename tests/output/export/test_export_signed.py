"""Signed exports: what a reader of Content Credentials finds, and how a killed export knows its own files again."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from certificates import made_signing

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.output.export import exporting, image_files
from dmt_ray.output.export.exporting import export
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.storage.provenance import VOCABULARY

c2pa = pytest.importorskip("c2pa")

IDS = [f"{number}.jpg" for number in range(8)]
#: Exports, and dies at once when so many files are written.
DYING = """
import os, signal, sys
from dmt_ray import cli
from dmt_ray.output.export import image_files
from dmt_ray.output.export.writing import Destination
image_files.UNIT_ROWS = 3
put, written = Destination.put, []
def dying(self, path, *rest):
    done = put(self, path, *rest)
    written.append(path)
    if len(written) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return done
Destination.put = dying
cli.main(sys.argv[2:])
"""


@pytest.fixture
def dest(tmp_path):
    return str(tmp_path / "dest")


@pytest.fixture
def signing(tmp_path):
    """The options that name a certificate and its key."""
    return files_of(tmp_path, "mine", made_signing())


def files_of(folder, name, pair):
    for suffix, content in zip(("certificate", "secret-key"), pair, strict=True):
        Path(folder, f"{name}-{suffix}.pem").write_bytes(content)
    return {
        "sign_certificate": str(folder / f"{name}-certificate.pem"),
        "sign_key": str(folder / f"{name}-secret-key.pem"),
    }


def flags(signing):
    return [part for name, value in signing.items() for part in (f"--{name.replace('_', '-')}", value)]


def said_by(data, kind="image/png"):
    """The program's own two assertions of a valid signature."""
    with c2pa.Reader(kind, io.BytesIO(data)) as reader:
        assert reader.get_validation_state() == "Valid"
        said = json.loads(reader.json())
    assertions = {each["label"]: each["data"] for each in said["manifests"][said["active_manifest"]]["assertions"]}
    return assertions["c2pa.actions.v2"]["actions"][-1], assertions["dmt_ray.result"]


def pictures_of(dest, form):
    """The pictures of an export by id and step, and its animations."""
    manifest = [row for row in pq.read_table(Path(dest, "manifest")).to_pylist() if row["id"] is not None]
    if form == "files":
        found = [(row, Path(dest, row["path"]).read_bytes()) for row in manifest]
    elif form == "webdataset":
        with tarfile.open(Path(dest, "shard-000000.tar")) as tar:
            found = [(row, tar.extractfile(row["member"]).read()) for row in manifest]
    else:
        rows = pq.read_table(Path(dest, "data")).to_pylist()
        found = [(row, each["image"]["bytes"]) for row, each in zip(manifest, rows, strict=True)]
        found += [
            (row | {"animation": True}, each["animation"]["bytes"]) for row, each in zip(manifest, rows, strict=True)
        ]
        assert [each["image_sha256"] for each in rows] == [row["sha256"] for row in manifest]
    for row, data in found:
        if form != "huggingface" or not row["animation"]:
            assert (row["sha256"], row["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    pictures = {(row["id"], row["step"]): data for row, data in found if not row["animation"]}
    return pictures, [data for row, data in found if row["animation"]]


@pytest.mark.parametrize("form", ["files", "webdataset", "huggingface"])
def test_every_picture_is_signed(make_output, dest, signing, form, caplog, capsys):
    made = make_output(IDS[:3], strengths=(1.0, 2.0), errors=["1.jpg"], animated=True)
    assert cli.main(["export", made.place, dest, "--format", form, *flags(signing)]) == 0
    pictures, animations = pictures_of(dest, form)
    assert pictures.keys() == made.pictures.keys()
    for key, data in pictures.items():
        action, result = said_by(data)
        assert action["action"] == "c2pa.edited"
        assert action["digitalSourceType"] == f"{VOCABULARY}algorithmicallyEnhanced"
        assert result == {"run": "f" * 64, "image_sha256": hashlib.sha256(made.pictures[key]).hexdigest()}
    assert len(animations) == 4
    assert all(said_by(data, "image/webp")[0]["action"] == "c2pa.edited" for data in animations)
    secret = Path(signing["sign_key"]).read_bytes().splitlines()[1]
    written = [path.read_bytes() for path in Path(dest).rglob("*") if path.is_file()]
    spoken = caplog.text + "".join(capsys.readouterr())
    assert not any(secret in data or b"secret-key" in data for data in [*written, spoken.encode()])
    assert cli.main(["export", made.place, dest, "--format", form, *flags(signing)]) == 0
    assert "0 of them were written now" in capsys.readouterr().out
    with pytest.raises(SettingsError, match=r"with other options \(--sign-certificate\)"):
        export(made.place, dest, ExportOptions(format=form))


def test_a_killed_export_goes_on_with_its_own_signed_files(make_output, dest, signing, tmp_path, monkeypatch):
    made = make_output(IDS)
    command = [sys.executable, "-c", DYING, "5", "export", made.place, dest, "--threads", "1", *flags(signing)]
    assert subprocess.run(command, check=False).returncode == -9
    first = {path: path.read_bytes() for path in Path(dest).glob("*.png")}
    assert len(first) == 5
    assert len(list(Path(dest, "manifest").iterdir())) == 1  # of three files: two are in no manifest
    monkeypatch.setattr(image_files, "UNIT_ROWS", 3)
    options = ExportOptions(threads=1, **signing)
    kept = Path(dest, "4.png")
    # Of somebody else's: unsigned, of another picture, or signed by another.
    other_place = export_elsewhere(make_output, tmp_path)
    for foreign in (
        made.pictures["4.jpg", 0],
        Path(dest, "3.png").read_bytes(),
        Path(other_place, "4.png").read_bytes(),
    ):
        kept.write_bytes(foreign)
        with pytest.raises(SettingsError, match=r"4\.png is there already, and this export did not write it"):
            export(made.place, dest, options)
        assert kept.read_bytes() == foreign
    kept.write_bytes(first[kept])
    Path(dest, "0.png").unlink()
    assert export(made.place, dest, options).created == 3 + 1
    pictures, _ = pictures_of(dest, "files")
    assert len(pictures) == 8
    assert {path: path.read_bytes() for path in first if path.name != "0.png"} == {
        path: data for path, data in first.items() if path.name != "0.png"
    }


def export_elsewhere(make_output, tmp_path):
    made = make_output(IDS)
    place = str(tmp_path / "elsewhere")
    export(made.place, place, ExportOptions(**files_of(tmp_path, "other", made_signing())))
    return place


@pytest.mark.parametrize("form", ["webdataset", "huggingface"])
def test_a_signed_archive_that_lacks_its_manifest_is_known_again(make_output, dest, signing, form, monkeypatch):
    made = make_output(IDS)
    options = ExportOptions(format=form, **signing)

    def dying(*args):
        raise KeyboardInterrupt

    def stop():
        with monkeypatch.context() as patch:
            patch.setattr(exporting, "write_part", dying)
            with pytest.raises(KeyboardInterrupt):
                export(made.place, dest, options)

    stop()
    (path,) = Path(dest).rglob("*00000*.tar" if form == "webdataset" else "train-*.parquet")
    data = path.read_bytes()
    assert export(made.place, dest, options).created == 0
    assert path.read_bytes() == data
    assert len(pictures_of(dest, form)[0] if form == "webdataset" else IDS) == 8
    path.unlink()
    Path(dest, "manifest", "part-000000.parquet").unlink()
    stop()
    path.write_bytes(b"mine")
    with pytest.raises(SettingsError, match="is there already, and this export did not write it"):
        export(made.place, dest, options)
    assert path.read_bytes() == b"mine"


def test_what_cannot_sign_is_said_before_the_first_file(make_output, dest, signing, tmp_path, capsys):
    make_output(IDS[:1])
    out = str(tmp_path / "out")
    key = signing["sign_key"]
    expired = files_of(tmp_path, "expired", made_signing(days=-1))
    missing = signing | {"sign_key": str(tmp_path / "no-secret-key.pem")}
    for options, reason in (
        ({"sign_key": key}, "--sign-certificate and --sign-key belong together"),
        ({"sign_certificate": key, "sign_key": key}, "no certificate in PEM"),
        (missing, "The file of --sign-key cannot be read: "),
        (expired, "cannot sign"),
    ):
        assert cli.main(["export", out, dest, *flags(options)]) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert "secret-key" not in said
        assert not Path(dest).exists()
    make_output(IDS[:2], image_format="avif")
    assert cli.main(["export", out, dest, *flags(signing)]) == 2
    assert "Pictures of the format 'avif' cannot be signed" in capsys.readouterr().err
    assert not Path(dest).exists()
