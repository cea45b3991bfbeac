import numpy as np
import pytest

from dmt_ray.report.contact_sheet import contact_sheet


def _picture(height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


def test_lays_every_picture_out_once_and_fits_it_into_its_cell():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = np.asarray(
        contact_sheet([[_picture(40, 80, c) for c in colors]], ["a", "b", "c"], ["one"], cell=(60, 60))
    )
    for column, color in enumerate(colors):
        ys, xs = np.nonzero((sheet == color).all(axis=2))
        assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == (60, 30)  # the aspect ratio stays
        assert xs.min() == 10 + column * 70


def test_rows_side_by_side_make_a_wider_and_lower_sheet():
    rows = [[_picture(30, 30, (9, 9, 9))] for _ in range(5)]
    one = contact_sheet(rows, ["x"], cell=(50, 50))
    two = contact_sheet(rows, ["x"], cell=(50, 50), across=2)
    assert two.width > one.width
    assert two.height < one.height
    assert (np.asarray(two) == (9, 9, 9)).all(axis=2).sum() == 5 * 50 * 50  # enlarged, but not beyond the cell


def test_small_pictures_are_at_most_doubled():
    sheet = np.asarray(contact_sheet([[_picture(10, 10, (1, 2, 3))]], ["x"], cell=(100, 100)))
    assert (sheet == (1, 2, 3)).all(axis=2).sum() == 20 * 20


def test_grey_and_missing_pictures():
    sheet = np.asarray(contact_sheet([[np.full((20, 20), 77, np.uint8), None]], [" ", " "], cell=(20, 20)))
    assert (sheet == 77).all(axis=2).sum() == 400
    assert (sheet == 235).all(axis=2).sum() == 400


def test_titles_and_captions_are_written_and_stay_inside_their_width():
    blank = contact_sheet([[None]], [" "], [" "], cell=(80, 80))
    short = contact_sheet([[None]], ["title"], ["caption"], cell=(80, 80))
    long = contact_sheet([[None]], ["title"], ["caption " * 50], cell=(80, 80))
    assert np.asarray(blank).shape == np.asarray(short).shape == np.asarray(long).shape
    assert (np.asarray(short) != np.asarray(blank)).any()
    assert (np.asarray(long)[:, 95:] == 255).all()


@pytest.mark.parametrize(
    ("rows", "titles", "captions", "options"),
    [
        ([], ["a"], None, {}),
        ([[None]], ["a", "b"], None, {}),
        ([[None]], ["a"], ["one", "two"], {}),
        ([[np.zeros((4, 4, 3), np.float32)]], ["a"], None, {}),
        ([[np.zeros((4, 4, 4), np.uint8)]], ["a"], None, {}),
        ([[None]], ["a"], None, {"across": 0}),
    ],
)
def test_refuses_what_it_cannot_lay_out(rows, titles, captions, options):
    with pytest.raises(ValueError, match=r"row|picture|caption|across"):
        contact_sheet(rows, titles, captions, **options)
