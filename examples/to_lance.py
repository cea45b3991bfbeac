"""Import the output of a run into a Lance dataset, by Lance's own importer.

pip install "dmt-ray[lance]"
python examples/to_lance.py out/ photos.lance
"""

import argparse

import lance
import pyarrow.dataset

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("output", help="the --output of a run, that `dmt-ray verify` finds complete")
parser.add_argument("dataset", help="where the Lance dataset is made")
asked = parser.parse_args()

rows = pyarrow.dataset.dataset(f"{asked.output.rstrip('/')}/shards", format="parquet")
sound = rows.scanner(filter=pyarrow.dataset.field("status") == "ok")
made = lance.write_dataset(sound.to_reader(), asked.dataset, schema=rows.schema, mode="create")

print(f"{asked.dataset}: {made.count_rows()} of {rows.count_rows()} rows, version {made.version}")
