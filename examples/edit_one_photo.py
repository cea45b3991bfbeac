"""Give one black-and-white photo colours, on a laptop.

python examples/edit_one_photo.py grey.jpg colour_photos/ result.png
"""

import argparse

import dmt_ray

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photo", help="a photo, black and white or not")
parser.add_argument("references", help="a folder with a few dozen colour photos of the like")
parser.add_argument("result", help="the file to write")
parser.add_argument("--size", type=int, default=224, help="working size in pixels; the result keeps the photo's own")
asked = parser.parse_args()

model = dmt_ray.Colorizer.fit(asked.references, size=asked.size)
for left_out in model.left_out:
    print("Left out:", left_out)

result = model.edit(asked.photo, strength=2)
result.save(asked.result)  # result.picture is a PIL image

print(f"{asked.result}: {result.figures['width']} x {result.figures['height']} pixels")
print(f"LPIPS to the photo {result.figures['lpips_to_input']:.3f}, PSNR {result.figures['psnr_to_input']:.1f} dB")
