"""Time `dmt-ray verify` on 100,000 rows, quick and deep: python benchmarks/verify_speed.py"""

from __future__ import annotations

import argparse
import tempfile
import time

from _made_output import SHARD_SIZE, flat_ids, make_output

from dmt_ray.output.verify import verify_output

#: The quick check must take less than this share of the deep check's time.
LARGEST_SHARE = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--data", help="not used: the output is made up")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        size, _ = make_output(folder, flat_ids(rows))
        print(f"{rows} rows, {size / 1e6:.0f} MB in shards of {SHARD_SIZE}")
        seconds = {}
        for deep in (False, True):
            began = time.perf_counter()
            report = verify_output(folder, deep=deep)
            seconds[deep] = time.perf_counter() - began
            if not report.complete or report.rows != rows:
                print("FAIL", *report.sentences(), sep="\n")
                return 1
            print(f"{'deep' if deep else 'quick'}: {seconds[deep]:.1f} s, {rows / seconds[deep]:.0f} rows/s")
    fast = seconds[False] < LARGEST_SHARE * seconds[True]
    print("PASS" if fast else f"FAIL: the quick check takes more than {LARGEST_SHARE:.0%} of the deep one's time")
    return 0 if fast else 1


if __name__ == "__main__":
    raise SystemExit(main())
