"""Exemplars from tables: the filter is one SQL expression over the columns, and can do nothing else."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import join
from dmt_ray.storage.inputs import tables
from dmt_ray.storage.inputs.exemplar_tables import list_exemplars
from dmt_ray.storage.inputs.registry import list_inputs


def put(folder: str, name: str, table: pa.Table | str, **options) -> str:
    if isinstance(table, str):
        data = table.encode()
    else:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **options)
        data = buffer.getvalue()
    files.write_atomic(join(folder, name), data)
    return join(folder, name)


def faces() -> pa.Table:
    return pa.table(
        {
            "image": [b"a", b"b", b"c", b"d"],
            "Smiling": [-1.5, 0.5, -0.25, 2.0],
            "Male": pa.array([1, 1, -1, None], pa.int8()),
            "person": pa.array(["ann", "bob", None, "ann"]).dictionary_encode(),
            "glasses": [True, False, True, True],
            "odd name": ["x", "y;z", "it's", "w"],
        }
    )


FACES_CSV = (
    "path,Smiling,Male,person,glasses,odd name\n"
    "a.jpg,-1.5,1,ann,true,x\nb.jpg,0.5,1,bob,false,y;z\nc.jpg,-0.25,-1,,true,it's\nd.jpg,2.0,,ann,true,w\n"
)


@pytest.fixture(params=["parquet", "csv"])
def place(request, tmp_path) -> str:
    if request.param == "csv":
        return put(str(tmp_path), "faces.csv", FACES_CSV)
    return put(str(tmp_path), "faces.parquet", faces(), row_group_size=2)


def rows(place: str, where: str | None, **options) -> list[int]:
    return [int(item.id.rpartition("#")[2]) for item in list_exemplars(place, where=where, **options).items]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("Smiling < 0 AND Male > 0", [0]),
        ("smiling < 0", [0, 2]),
        ("Male > 0 OR Male IS NULL", [0, 1, 3]),
        ("NOT glasses", [1]),
        ("glasses", [0, 2, 3]),
        ("person = 'ann'", [0, 3]),
        ("person IN ('ann', 'bob') AND abs(Smiling) < 1", [1]),
        ("\"odd name\" = 'y;z'", [1]),
        ("\"odd name\" LIKE 'it''s'", [2]),
        ("Smiling BETWEEN -0.5 AND 1 -- nearly neutral", [1, 2]),
    ],
)
def test_filters(place, where, expected):
    found = list_exemplars(place, where=where)
    assert [int(item.id.rpartition("#")[2]) for item in found.items] == expected
    everything = list_inputs(place)
    assert found.items == [everything[row] for row in expected]
    assert found.attributes is None
    assert found.groups is None


def test_attributes_and_groups(place):
    found = list_exemplars(
        place, where="Male IS NOT NULL", attribute_columns=["Male", "Smiling", "glasses"], group_column="person"
    )
    assert found.attributes is not None
    assert found.attributes.dtype == np.float64
    assert found.attributes.tolist() == [[1, -1.5, 1], [1, 0.5, 0], [-1, -0.25, 1]]
    assert found.groups == ["ann", "bob", None]
    assert list_exemplars(place, group_column="Smiling").groups == ["-1.5", "0.5", "-0.25", "2.0"]


def test_several_files_on_every_store(folder):
    for number in range(3):
        table = pa.table(
            {"uri": [f"{number}-{row}.jpg" for row in range(4)], "n": [number * 4 + row for row in range(4)]}
        )
        put(folder, f"set/{number}.parquet", table.slice(0, 0) if number == 1 else table)
    found = list_exemplars(join(folder, "set"), where="n % 2 = 1", attribute_columns=["n"])
    assert [item.id for item in found.items] == [
        "0.parquet#1", "0.parquet#3", "2.parquet#1", "2.parquet#3",
    ]  # fmt: skip
    assert [item.uri.rpartition("/")[2] for item in found.items] == ["0-1.jpg", "0-3.jpg", "2-1.jpg", "2-3.jpg"]
    assert found.attributes is not None
    assert found.attributes[:, 0].tolist() == [1, 3, 9, 11]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("Smilin < 0", r'"Smilin" not found.*Columns: .*Smiling \(double\)'),
        ("Smiling <", "syntax error"),
        ("", "selection list"),
        ("image = 'x'", '"image" not found'),
        ("Smiling + 'x' > 1", "Conver"),
        ("'abc'", "could not convert"),
        ("count(*) > 1", "aggregates"),
        ("Smiling > 99", "leaves none of the 4 rows"),
        # Nothing but one expression:
        ("true; DROP TABLE faces", "modifiers"),
        ("true;", "syntax error"),
        ("true) UNION SELECT 1 --", "syntax error"),
        ("true, false", "single expression"),
        ("true ORDER BY 1", "modifiers"),
        ("true LIMIT 1", "modifiers"),
        # and nothing of the outside:
        ("(SELECT count(*) FROM read_text('/etc/passwd')) > 0", "disabled by configuration"),
        ("EXISTS (SELECT 1 FROM '/etc/passwd.csv')", "disabled by configuration"),
        ("EXISTS (SELECT 1 FROM read_parquet('s3://bucket/x.parquet'))", "disabled by configuration|not"),
        ("EXISTS (SELECT 1 FROM glob('/*'))", "disabled by configuration"),
        ("EXISTS (SELECT * FROM faces)", "does not exist"),
        ("EXISTS (SELECT * FROM numbered)", "does not exist"),
        ("getenv('HOME') = 'x'", "does not exist"),
    ],
)
def test_filters_that_are_refused(tmp_path, where, message):
    place = put(str(tmp_path), "faces.parquet", faces())
    with pytest.raises(SettingsError, match=f"(?i){message}") as caught:
        list_exemplars(place, where=where)
    assert place in str(caught.value)
    assert repr(where) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_do_not_serve(place):
    with pytest.raises(SettingsError, match=r"no column 'gone'.*Columns: .*Smiling"):
        list_exemplars(place, attribute_columns=["gone"])
    with pytest.raises(SettingsError, match="no column 'gone'"):
        list_exemplars(place, group_column="gone")
    with pytest.raises(SettingsError, match="holds string; an attribute must be a number"):
        list_exemplars(place, attribute_columns=["odd name"])
    with pytest.raises(SettingsError, match=r'has no number for faces\.\w+#3 \(and 0 more\).*"Male" IS NOT NULL'):
        list_exemplars(place, attribute_columns=["Smiling", "Male"])


def test_places_without_a_table(tmp_path):
    for name in ("a.png", "b.png"):
        files.write_atomic(str(tmp_path / "in" / name), b"x")
    lines = put(str(tmp_path), "list.txt", "in/a.png\nin/b.png\n")
    assert [item.id for item in list_exemplars(str(tmp_path / "in")).items] == ["a.png", "b.png"]
    assert [item.id for item in list_exemplars(lines).items] == ["in/a.png", "in/b.png"]
    for options in ({"where": "true"}, {"group_column": "x"}, {"attribute_columns": ["x"]}):
        for where in (str(tmp_path / "in"), lines):
            with pytest.raises(SettingsError, match="is no table"):
                list_exemplars(where, **options)


def test_image_bytes_are_not_loaded(tmp_path, monkeypatch):
    noise = [np.random.default_rng(row).bytes(500_000) for row in range(20)]
    place = put(str(tmp_path), "big.parquet", pa.table({"image": noise, "thumb": noise, "n": list(range(20))}))
    done = []
    original = files.open_file

    def counting(uri: str):
        class Counted(io.FileIO):
            def read(self, size: int = -1) -> bytes:
                data = super().read(size)
                done.append(len(data))
                return data

        assert original is not None
        return Counted(uri)

    monkeypatch.setattr(files, "open_file", counting)
    assert rows(place, "n > 17", image_column="image") == [18, 19]
    assert 0 < sum(done) < 500_000


def test_a_csv_column_with_one_odd_value_is_text(tmp_path):
    lines = [f"{row:0150}.jpg,{row}" for row in range(30_000)]
    assert sum(map(len, lines)) > tables._BLOCK_BYTES  # the odd value is in another block than the first
    place = put(str(tmp_path), "t.csv", "\n".join(["uri,n", *lines, "x.jpg,many"]))
    assert rows(place, "n = 'many'") == [30_000]
    with pytest.raises(SettingsError, match=r"n \(string\)"):
        rows(place, "n > 5 AND gone")
