"""Time `dmt-ray export` in all its formats, and measure its memory: python benchmarks/export_speed.py --rows 100000

Each export runs in a process of its own, whose peak of resident memory is what is shown. Memory must not grow with
the rows: a quarter of them must need almost as much.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _made_output import make_output

FORMATS = ("files", "webdataset", "huggingface")
#: Megabytes by which the peak may exceed that of a quarter of the rows, which may not give every thread a file.
MOST_GROWTH_MB = 300

_CHILD = """
import re, sys
from dmt_ray.output.export.exporting import export
from dmt_ray.output.export.options import ExportOptions
report = export(sys.argv[1], sys.argv[2], ExportOptions(format=sys.argv[3], file_size=int(sys.argv[4])))
print("pictures", report.pictures)
print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--file-size", type=int, default=500, help="megabytes, as for dmt-ray export")
    parser.add_argument("--data", help="not used: the output is made up")
    options = parser.parse_args()
    sizes = (options.rows // 4, options.rows)
    peaks: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        print("| format | rows | MB | s | rows/s | peak MB |\n|---|---|---|---|---|---|")
        for rows in sizes:
            output = str(Path(folder, f"run-{rows}"))
            # In folders of a thousand.
            size, _ = make_output(output, [f"{index // 1000:04d}/{index:07d}.jpg" for index in range(rows)])
            for name in FORMATS:
                dest = Path(folder, f"{name}-{rows}")
                seconds, pictures, peaks[name, rows] = _export(output, str(dest), name, options.file_size)
                if pictures != rows:
                    print(f"FAIL: {pictures} pictures of {rows} rows")
                    return 1
                rate = rows / seconds
                cells = [name, rows, f"{size / 1e6:.0f}", f"{seconds:.1f}", f"{rate:.0f}", f"{peaks[name, rows]:.0f}"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    few, many = sizes
    grown = [name for name in FORMATS if peaks[name, many] > peaks[name, few] + MOST_GROWTH_MB]
    print("PASS" if not grown else f"FAIL: memory grows with the rows: {', '.join(grown)}")
    return 1 if grown else 0


def _export(output: str, dest: str, name: str, file_size: int) -> tuple[float, int, float]:
    """Export in another process; return its seconds, its pictures, and its peak of memory in megabytes."""
    began = time.perf_counter()
    command = [sys.executable, "-c", _CHILD, output, dest, name, str(file_size)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - began
    numbers = dict(re.findall(r"(\w+) (\d+)", said))
    return seconds, int(numbers["pictures"]), int(numbers["peak"]) * 1024 / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
