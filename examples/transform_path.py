"""Move one photo from a class towards another in rising strengths, and keep the model for later.

python examples/transform_path.py photo.jpg young/ old/ results/
"""

import argparse

import dmt_ray

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photo")
parser.add_argument("source", help="photos of the class to move away from: a folder, or a table (CSV, Parquet)")
parser.add_argument("target", help="photos of the class to move towards")
parser.add_argument("results", help="the folder to write to")
parser.add_argument("--size", type=int, default=224, help="working size in pixels")
asked = parser.parse_args()

older = dmt_ray.Transformer.fit(source=asked.source, target=asked.target, size=asked.size)
older.save(f"{asked.results}/model")  # dmt_ray.Transformer.load, or dmt-ray transform --manifold

for result in older.path(asked.photo, strengths=[2, 4, 6]):
    strength, flipped = result.figures["strength"], result.figures["flipped"]
    result.save(f"{asked.results}/strength-{strength:g}.png")
    print(f"strength {strength:g}: verdict {result.figures['verdict_after']:.2f}, flipped {flipped}")
