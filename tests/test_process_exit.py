"""A process ends with its own exit code."""

import subprocess
import sys
from pathlib import Path

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
