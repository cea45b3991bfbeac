"""A process ends with its own exit code."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupting import handles, until
from material import chaos_environment

from dmt_ray.process_exit import EXIT_INTERRUPTED, INTERRUPTED

ROOT = Path(__file__).parents[1]

#: A thread of Arrow's is in the middle of a call to Python when the interpreter takes itself apart, for a second.
SCRIPT = """
import io, sys, tempfile, threading, time
import pyarrow as pa, pyarrow.parquet as pq
from dmt_ray.process_exit import exit_process

class Slow(io.BytesIO):
    def read(self, size=-1):
        if threading.get_ident() != reader.ident:
            begun.set()
            time.sleep(0.5)
        return super().read(size)

class Lasting:
    def __del__(self): time.sleep(1)

file, begun, lasting, folder = Slow(), threading.Event(), Lasting(), tempfile.TemporaryDirectory()
pq.write_table(pa.table({"a": range(1000)}), pa.PythonFile(file, "w"))
reader = threading.Thread(target=lambda: pq.read_table(file), daemon=True)
reader.start()
assert begun.wait(60)
print(folder.name)
sys.stderr.write("the last words")
END
"""


def run(end: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.replace("END", end)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_threads_of_native_libraries_do_not_change_the_exit_code():
    done = run("exit_process(4)")
    assert done.returncode == 4
    assert done.stderr == "the last words"
    assert not Path(done.stdout.strip()).exists()


JOB = ["--reference", "refs", "--output", "out", "--weights", "random:0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "program", [["-m", "dmt_ray", "colorize"], [str(ROOT / "jobs/colorize_dataset.py")]], ids=["command", "script"]
)
def test_a_signal_during_the_imports_is_a_sentence(program, number, tmp_path):
    process = start([sys.executable, *program, "--input", "photos", *JOB], tmp_path)
    until(lambda: handles(process.pid, signal.SIGTERM), "the handlers, of which this is the last")
    assert_interrupted(process, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_input_is_listed_is_a_sentence(photos, number, tmp_path):
    words = [*JOB[2:], "--reference", str(photos / "references"), "--input", "crash://slow.csv"]
    process = start([sys.executable, "-m", "dmt_ray", "colorize", *words], tmp_path)
    until(lambda: list(tmp_path.glob("looking-*")), "the search for the input")
    assert_interrupted(process, number)
    assert not (tmp_path / "out").exists()


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **chaos_environment(folder), "TMPDIR": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def assert_interrupted(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED, said
    assert said.splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in said
