"""A whole run in a folder that lies in wait: its modules stay unused, its names forge no line."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest

SECRET = "hunter2"


class SignedFiles(http.server.SimpleHTTPRequestHandler):
    """Serves files to whoever has the signature."""

    def send_head(self):
        if parse_qs(urlsplit(self.path).query).get("X-Amz-Signature") != [SECRET]:
            self.send_error(403)
            return None
        return super().send_head()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(photos: Path) -> Iterator[str]:
    handler = functools.partial(SignedFiles, directory=str(photos / "inputs"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("local_ray")
def test_a_run_in_a_hostile_folder(photos, server, tmp_path):
    import ray

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("pip", "safetensors", "torch", "PIL", "pyarrow", "requests", "yaml", "tqdm"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'a').write({name!r})\n")
    forged = folder / "a\n12:00:00 INFO 999 ok\x1b[2K.jpg"
    forged.write_bytes((photos / "inputs" / "photo-0.jpg").read_bytes())
    (folder / "secret.csv").write_text(f"user,password\nroot,{SECRET}\n")
    table = pd.DataFrame(
        {
            "id": ["signed", "inner", "cell", "forged\n12:00:00 INFO 998 ok"],
            "uri": [
                f"{server}/photo-1.jpg?X-Amz-Signature={SECRET}",
                f"http://127.0.0.2:{urlsplit(server).port}/photo-1.jpg",
                f"{folder}/secret.csv#row=0&column=password",
                str(forged),
            ],
        }
    )
    table.to_csv(folder / "list.csv", index=False)
    out = tmp_path / "out"
    words = [sys.executable, "-m", "dmt_ray", "colorize", "--input", "list.csv", "--output", out, "--mask-plan"]
    words += ["--reference", photos / "references", "--allow-uri", f"{server}/photo-1.jpg", "--weights", "random:0"]
    words += [
        "--size",
        32,
        "--iterations",
        1,
        "--neighbors",
        8,
        "--no-lpips",
        "--max-error-rate",
        0.5,
        "--no-progress",
    ]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def run(*more: str) -> str:
        done = subprocess.run(
            [*map(str, words), *more], cwd=folder, env=environment, capture_output=True, text=True, timeout=800
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    said = run()
    assert not (tmp_path / "proof").exists()
    assert not re.search(r"^12:00:00 INFO 99", said, re.MULTILINE)
    assert "\x1b[2K" not in said
    rows = pd.read_parquet(out / "shards").set_index("id")
    assert rows.status.to_dict() == {
        "signed": "ok",
        "inner": "error",
        "cell": "error",
        "forged\n12:00:00 INFO 998 ok": "ok",
    }
    assert rows.error_type[["inner", "cell"]].to_list() == ["refused", "storage"]
    said += run("--retry-failed")  # the plan has no signature; the table still has
    for text in (said, *(path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file())):
        assert SECRET not in text
    assert pd.read_parquet(out / "plan.parquet").uri[0] == f"{server}/photo-1.jpg"
