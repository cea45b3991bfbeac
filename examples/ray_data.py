"""Edit photos inside of a Ray Data pipeline of your own.

python examples/ray_data.py photos/ young/ old/ results/
"""

import argparse

import ray

import dmt_ray

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", help="a folder of photos")
parser.add_argument("source", help="photos of the class to move away from")
parser.add_argument("target", help="photos of the class to move towards")
parser.add_argument("results", help="the folder to write Parquet files to")
parser.add_argument("--size", type=int, default=224, help="working size in pixels")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each actor")
parser.add_argument("--actors", type=int, default=1)
asked = parser.parse_args()

older = dmt_ray.Transformer.fit(source=asked.source, target=asked.target, size=asked.size)

photos = ray.data.read_binary_files(asked.photos, include_paths=True).rename_columns({"bytes": "image"})
edited = photos.map_batches(
    older.for_ray(strength=4),  # loads the model once per actor
    batch_size=16,
    num_gpus=asked.gpus,
    concurrency=asked.actors,
)
# A photo that cannot be used has edited_status "error", and loses no other row.
edited.select_columns(["path", "edited_status", "edited_error", "edited_image", "edited_flipped"]).write_parquet(
    asked.results
)
