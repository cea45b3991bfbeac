"""Cut the photos that scikit-image and scikit-learn ship into a small dataset: colour references and grey inputs.

Each photo is split, mostly down the middle, so that both parts show the same materials: windows slid over one part
become references, fixed crops of the other become inputs. At least ``GAP`` pixels lie between the two, so
no pixel is in both. Nothing is downloaded and nothing is drawn at random: two runs write the same files.

    python demo/build_dataset.py --output demo/data

writes ``references/`` (colour), ``inputs/`` (grey) and ``truth/`` (the inputs' colours, same file stem).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image

from dmt_ray.words import counted

#: Pixels, at least, between a reference and an input cut from the same photo.
GAP = 8
#: JPEG quality of the inputs that are cut from photos which are JPEG files themselves.
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Box:
    """A rectangle in a photo, in pixels from the upper left corner."""

    x: int
    y: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge, as Pillow crops."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def distance(self, other: Box) -> int:
        """Pixels between the two rectangles along the axis that separates them; negative when they overlap."""
        left, upper, right, lower = self.corners
        other_left, other_upper, other_right, other_lower = other.corners
        return max(other_left - right, left - other_right, other_upper - lower, upper - other_lower)


@dataclass(frozen=True)
class Photo:
    """One packaged photo and how it is cut.

    Parameters:
        name: stem of the files made from it.
        package: the package whose data folder holds it.
        path: file inside the package.
        regions: where references come from.
        window: width and height of a reference; a region narrower than that is taken at its own size.
        inputs: the crops to colorize.
    """

    name: str
    package: str
    path: str
    regions: tuple[Box, ...]
    window: tuple[int, int]
    inputs: tuple[Box, ...]

    def references(self) -> list[Box]:
        """Windows over the regions, half a window apart at most, the last of a row or column flush with the edge."""
        boxes = []
        for region in self.regions:
            width, height = min(self.window[0], region.width), min(self.window[1], region.height)
            boxes += [
                Box(region.x + x, region.y + y, width, height)
                for y in _starts(region.height, height)
                for x in _starts(region.width, width)
            ]
        return boxes

    def load(self) -> Image.Image:
        """Return the photo as RGB; FileNotFoundError when the package does not ship it."""
        with resources.files(self.package).joinpath(self.path).open("rb") as file:
            return Image.open(file).convert("RGB")


def _starts(length: int, window: int) -> list[int]:
    """Offsets that cover ``length`` with windows, evenly spread and overlapping by half or more."""
    steps = -(-2 * (length - window) // window)
    return [round(step * (length - window) / max(steps, 1)) for step in range(steps + 1)]


PHOTOS = (
    Photo(
        "astronaut",
        "skimage",
        "data/astronaut.png",
        regions=(Box(0, 0, 218, 512), Box(460, 0, 52, 110), Box(460, 110, 52, 110)),
        window=(218, 218),
        inputs=(Box(228, 0, 224, 220), Box(228, 228, 284, 284)),
    ),
    Photo(
        "cat",
        "skimage",
        "data/chelsea.png",
        regions=(Box(0, 0, 246, 300), Box(255, 0, 196, 56), Box(255, 244, 196, 56)),
        window=(190, 200),
        inputs=(Box(255, 64, 196, 172),),
    ),
    Photo(
        "coffee",
        "skimage",
        "data/coffee.png",
        regions=(Box(0, 0, 276, 400),),
        window=(240, 220),
        inputs=(Box(286, 0, 314, 220), Box(286, 180, 314, 220)),
    ),
    Photo(
        "rocket",
        "skimage",
        "data/rocket.jpg",
        regions=(Box(0, 0, 330, 427),),
        window=(300, 220),
        inputs=(Box(340, 0, 300, 400),),
    ),
    Photo(
        "retina",
        "skimage",
        "data/retina.jpg",
        regions=(Box(90, 100, 600, 1211),),
        window=(600, 480),
        inputs=(Box(710, 120, 600, 480), Box(710, 660, 540, 600)),
    ),
    Photo(
        "histology",
        "skimage",
        "data/ihc.png",
        regions=(Box(220, 0, 292, 250), Box(0, 262, 200, 250)),
        window=(200, 220),
        inputs=(Box(0, 0, 210, 252), Box(212, 262, 300, 250)),
    ),
    Photo(
        "motorcycle",
        "skimage",
        "data/motorcycle_left.png",
        regions=(Box(0, 0, 360, 500),),
        window=(300, 250),
        inputs=(Box(370, 0, 371, 280), Box(370, 220, 371, 280)),
    ),
    Photo(
        "pagoda",
        "sklearn",
        "datasets/images/china.jpg",
        regions=(Box(0, 0, 200, 427), Box(440, 0, 200, 427)),
        window=(200, 240),
        inputs=(Box(210, 0, 220, 420),),
    ),
    Photo(
        "dahlia",
        "sklearn",
        "datasets/images/flower.jpg",
        regions=(Box(0, 0, 302, 427),),
        window=(240, 280),
        inputs=(Box(312, 40, 328, 330),),
    ),
)


def build(output: Path) -> tuple[int, int]:
    """Write the dataset under ``output``, replacing an earlier one; return how many references and inputs."""
    folders = {name: output / name for name in ("references", "inputs", "truth")}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    references = inputs = 0
    for photo in PHOTOS:
        picture = photo.load()
        for number, box in enumerate(photo.references(), 1):
            picture.crop(box.corners).save(folders["references"] / f"{photo.name}-{number:02d}.png")
            references += 1
        for number, box in enumerate(photo.inputs, 1):
            stem = f"{photo.name}-{number:02d}"
            truth = picture.crop(box.corners)
            truth.save(folders["truth"] / f"{stem}.png")
            if photo.path.endswith(".jpg"):
                truth.convert("L").save(folders["inputs"] / f"{stem}.jpg", quality=JPEG_QUALITY)
            else:
                truth.convert("L").save(folders["inputs"] / f"{stem}.png")
            inputs += 1
    return references, inputs


def main() -> int:
    """Parse the options, build, and say what was made."""
    parser = argparse.ArgumentParser(description="Build the demo dataset from packaged photos.")
    parser.add_argument("--output", type=Path, default=Path("demo/data"), help="folder to write")
    output: Path = parser.parse_args().output
    references, inputs = build(output)
    print(f"{output}: {counted(references, 'colour reference')}, {counted(inputs, 'grey input')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
