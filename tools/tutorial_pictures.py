"""Draw the pictures of docs/tutorial.md from the outputs that its commands made.

    python tools/tutorial_pictures.py --data demo --output out

reads ``demo/data`` and ``demo/textures`` (inputs and true colours) and ``out/colour``, ``out/grass`` (outputs of
runs), and writes ``docs/images/*.webp``: only of photos that are of the public domain or CC0.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

IMAGES = Path(__file__).parents[1] / "docs" / "images"
#: Photos of the public domain or CC0 (see the tutorial), in the order of the sheet.
SHOWN = ("astronaut-01", "cat-01", "coffee-01", "retina-01", "rocket-01")
SIDE, GAP = 160, 6
QUALITY = 82


def results(output: Path) -> dict[tuple[str, int], Image.Image]:
    """Return the pictures of a run by the stem of the photo and the step."""
    rows = pq.read_table(output / "shards", columns=["id", "step", "image"]).to_pylist()
    return {(Path(row["id"]).stem, row["step"]): Image.open(io.BytesIO(row["image"])) for row in rows}


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Lay pictures out in rows, each cut to a square from its middle."""
    width = len(rows[0]) * (SIDE + GAP) - GAP
    page = Image.new("RGB", (width, len(rows) * (SIDE + GAP) - GAP), "white")
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            side = min(picture.size)
            left, upper = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.convert("RGB").crop((left, upper, left + side, upper + side))
            page.paste(
                square.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (across * (SIDE + GAP), down * (SIDE + GAP))
            )
    return page


def draw(data: Path, output: Path) -> list[Path]:
    """Write the pictures; return where they are."""
    colours, textures = results(output / "colour"), results(output / "grass")
    inputs = {path.stem: Image.open(path) for path in sorted((data / "data" / "inputs").iterdir())}
    truth = {path.stem: Image.open(path) for path in sorted((data / "data" / "truth").iterdir())}
    gravel = {path.stem: Image.open(path) for path in sorted((data / "textures" / "inputs").iterdir())}
    steps = sorted({step for _, step in textures})
    pages = {
        "colours": sheet(
            [
                [inputs[name] for name in SHOWN],
                [colours[name, 0] for name in SHOWN],
                [truth[name] for name in SHOWN],
            ]
        ),
        "gravel-to-grass": sheet(
            [[gravel[name], *(textures[name, step] for step in steps)] for name in list(gravel)[:2]]
        ),
    }
    IMAGES.mkdir(exist_ok=True)
    paths = []
    for name, page in pages.items():
        paths.append(IMAGES / f"{name}.webp")
        page.save(paths[-1], "WEBP", quality=QUALITY, method=6)
    return paths


def main() -> int:
    """Parse the options, draw, and say what was written."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the tutorial.")
    parser.add_argument("--data", type=Path, default=Path("demo"), help="folder of data/ and textures/")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder of the tutorial's outputs")
    options = parser.parse_args()
    for path in draw(options.data, options.output):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
