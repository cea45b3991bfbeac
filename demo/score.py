"""Score a colorized demo dataset against its true colours and lay the pictures out on a contact sheet.

    python demo/score.py --data demo/data --output demo/output

reads ``demo/output/shards/*.parquet`` and ``demo/data/truth``, prints one line per photo and the mean gain over grey,
and writes ``demo/output/contact_sheet.png``. Exit code 1 when there is nothing to score.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from dmt_ray.method.metrics import pixels as metrics
from dmt_ray.report.contact_sheet import contact_sheet
from dmt_ray.words import counted


@dataclass(frozen=True)
class Score:
    """One photo: its pictures, uint8 RGB [H,W,3], and how near grey and the result come to the truth, in dB."""

    id: str
    truth: np.ndarray
    grey: np.ndarray
    result: np.ndarray
    grey_psnr: float
    result_psnr: float

    @property
    def gain(self) -> float:
        """What colorizing gained over leaving the photo grey, in dB."""
        return self.result_psnr - self.grey_psnr


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 images of the same shape, over all channels, in dB."""
    return float(metrics.psnr(torch.tensor(a)[None], torch.tensor(b)[None]))


def score_row(row: dict[str, object], data: Path) -> Score:
    """Join one good output row to its truth by the stem of its id; FileNotFoundError when there is none."""
    name = str(row["id"])
    with Image.open(data / "truth" / f"{PurePosixPath(name).stem}.png") as image:
        truth = np.asarray(image.convert("RGB"))
    with Image.open(data / "inputs" / name) as image:
        grey = np.asarray(image.convert("L").convert("RGB"))
    encoded = row["image"]
    if not isinstance(encoded, bytes):
        raise TypeError(f"row {name} has no image bytes")
    with Image.open(io.BytesIO(encoded)) as image:
        picture = image.convert("RGB")
    if picture.size != (truth.shape[1], truth.shape[0]):  # --resolution working
        picture = picture.resize((truth.shape[1], truth.shape[0]), Image.Resampling.BICUBIC)
    result = np.asarray(picture)
    return Score(name, truth, grey, result, psnr(grey, truth), psnr(result, truth))


def main() -> int:
    """Parse the options, score, print the table and save the contact sheet."""
    parser = argparse.ArgumentParser(description="Score the demo's output against the true colours.")
    parser.add_argument("--data", type=Path, default=Path("demo/data"), help="what build_dataset.py wrote")
    parser.add_argument("--output", type=Path, default=Path("demo/output"), help="what the job wrote")
    options = parser.parse_args()
    data: Path = options.data
    output: Path = options.output

    shards = output / "shards"
    if not any(shards.glob("*.parquet")):
        print(f"No shards in {shards}: run the job first.", file=sys.stderr)
        return 1
    columns = ["id", "status", "error_type", "error", "image"]
    rows = sorted(pq.read_table(shards, columns=columns).to_pylist(), key=lambda row: str(row["id"]))
    for row in rows:
        if row["status"] != "ok":
            print(f"{row['id']}: {row['error_type']}: {row['error']}", file=sys.stderr)
    scores = [score_row(row, data) for row in rows if row["status"] == "ok"]
    if not scores:
        print(f"No row of {shards} has a picture.", file=sys.stderr)
        return 1

    print(f"{'photo':<20} {'grey dB':>8} {'result dB':>10} {'gain dB':>8}")
    for score in scores:
        print(f"{score.id:<20} {score.grey_psnr:>8.2f} {score.result_psnr:>10.2f} {score.gain:>+8.2f}")
    gain = float(np.mean([score.gain for score in scores]))

    sheet = contact_sheet(
        [[score.truth, score.grey, score.result] for score in scores],
        ["truth", "grey input", "result"],
        [f"{s.id}   grey {s.grey_psnr:.1f} dB, result {s.result_psnr:.1f} dB ({s.gain:+.1f})" for s in scores],
        across=2,
    )
    path = (output / "contact_sheet.png").resolve()
    sheet.save(path)
    print(f"Mean PSNR gain over grey: {gain:+.2f} dB on {counted(len(scores), 'photo')}")
    print(f"Contact sheet: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
