"""Cut the photos of gravel and grass that scikit-image ships into two classes, and inputs of the first.

    python demo/build_textures.py --output demo/textures

writes ``gravel/`` and ``grass/`` (exemplars) and ``inputs/`` (gravel that no exemplar shows). Nothing is downloaded
and nothing is drawn at random: two runs write the same files.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib import resources
from pathlib import Path

from PIL import Image

from dmt_ray.words import counted

#: Width and height of a crop, in pixels.
SIDE = 128
#: Pixels between the upper left corners of two exemplars.
STEP = 64
#: The inputs are cut below this row of the photo, the exemplars above it.
BORDER = 384


def _crops(name: str, top: int, bottom: int, step: int) -> list[Image.Image]:
    """Return the crops of a packaged photo whose rows lie in a range."""
    with resources.files("skimage").joinpath(f"data/{name}.png").open("rb") as file:
        photo = Image.open(file).convert("L")
    return [
        photo.crop((left, upper, left + SIDE, upper + SIDE))
        for upper in range(top, bottom - SIDE + 1, step)
        for left in range(0, photo.width - SIDE + 1, step)
    ]


def build(output: Path) -> tuple[int, int]:
    """Write the crops under ``output``, replacing earlier ones; return how many exemplars and inputs."""
    classes = {name: _crops(name, 0, BORDER, STEP) for name in ("gravel", "grass")}
    inputs = _crops("gravel", BORDER, BORDER + SIDE, SIDE)
    for name, crops in {**classes, "inputs": inputs}.items():
        folder = output / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number, crop in enumerate(crops, 1):
            crop.save(folder / f"{name}-{number:02d}.png")
    return sum(map(len, classes.values())), len(inputs)


def main() -> int:
    """Parse the options, build, and say what was made."""
    parser = argparse.ArgumentParser(description="Build two classes of textures from packaged photos.")
    parser.add_argument("--output", type=Path, default=Path("demo/textures"), help="folder to write")
    output: Path = parser.parse_args().output
    exemplars, inputs = build(output)
    print(f"{output}: {counted(exemplars, 'exemplar')} of two classes, {counted(inputs, 'input')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
