"""Colorize a folder of photos on Ray, and look at the rows without reading a picture.

    python examples/whole_pipeline.py photos/ colour_photos/ out/

Start it again after an interruption: it does what is missing.
"""

import argparse
import logging

import dmt_ray

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("input", help="a folder, table or archive of photos, at a path or URI")
parser.add_argument("reference", help="colour photos to learn from")
parser.add_argument("output", help="a folder or URI")
parser.add_argument("--size", type=int, default=224, help="working size in pixels")
asked = parser.parse_args()

logging.basicConfig(level=logging.INFO)  # progress comes as lines of the log
config = dmt_ray.ColorizeConfig.of(
    input=asked.input, reference=asked.reference, output=asked.output, size=asked.size, strength=[1, 2]
)
result = dmt_ray.run(config)

for rows in result.rows(["id", "strength", "status", "error", "psnr_to_input"], form="pandas"):
    print(rows.to_string(index=False))
if not result.complete:
    print("Run it again: some photos have no row yet.")
