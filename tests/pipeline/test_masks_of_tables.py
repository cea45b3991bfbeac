"""Masks that a table names are held to the same policy as its images."""

from __future__ import annotations

import uuid

import pytest

from dmt_ray.config import MaskConfig
from dmt_ray.errors import ImageError
from dmt_ray.pipeline.masks import MaskReader
from dmt_ray.storage import files
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import InputItem, list_inputs


def test_a_remote_table_names_no_mask_on_this_machine_and_none_a_private_server(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"mask")
    names = [f"{tmp_path}/mask.png", "http://127.0.0.1:9/mask.png"]
    table = "\n".join(["uri,mask", *(f"{n}.jpg,{name}" for n, name in enumerate(names))]).encode()
    place = f"memory://{uuid.uuid4().hex}"
    for folder, allowed, expected in (
        (place, (), ["refused", "refused"]),
        (str(tmp_path), (), [b"mask", "refused"]),
        (place, (str(tmp_path),), [b"mask", "refused"]),
    ):
        files.write_atomic(f"{folder}/table.csv", table)
        found: list[object] = []
        with InputReader(allowed=allowed) as reader:
            masks = MaskReader(MaskConfig(mask_column="mask"), reader)
            for item in list_inputs(f"{folder}/table.csv"):
                try:
                    found.append(masks.read(item))
                except ImageError as error:
                    found.append(error.kind)
        assert found == expected


def test_a_folder_of_masks_is_the_users_own_word(tmp_path):
    (tmp_path / "0.png").write_bytes(b"mask")
    place = f"memory://{uuid.uuid4().hex}"
    files.write_atomic(f"{place}/0.jpg", b"picture")
    with InputReader() as reader:
        masks = MaskReader(MaskConfig(mask_folder=str(tmp_path)), reader)
        assert [masks.read(item) for item in list_inputs(place)] == [b"mask"]
        with pytest.raises(ImageError, match="holds neither"):
            masks.read(InputItem("gone.jpg", f"{place}/gone.jpg"))
