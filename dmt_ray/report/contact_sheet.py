"""A contact sheet: one row of pictures per item, a title per column, a caption per row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmt_ray.words import counted

_MARGIN = 10
_TEXT = 15
_LINE = 22
_PAPER = (255, 255, 255)
_INK = (30, 30, 30)
_MISSING = (235, 235, 235)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray | None]],
    titles: Sequence[str],
    captions: Sequence[str] | None = None,
    *,
    cell: tuple[int, int] = (220, 220),
    across: int = 1,
) -> Image.Image:
    """Lay pictures out in a table.

    Parameters:
        rows: pictures of each row, uint8, [H,W,3] RGB or [H,W] grey, of any size; None leaves a blank cell.
        titles: one title per column.
        captions: one line under each row; None for no captions.
        cell: width and height of a cell in pixels. A picture keeps its aspect ratio, is fitted into the cell and
            centred; one that is smaller than the cell is not enlarged beyond twice its size.
        across: how many rows to put side by side.

    Returns:
        The sheet, RGB.

    Raises:
        ValueError: no rows, a row whose length is not that of ``titles``, as many captions as there are not rows,
            a picture that is not uint8 of such a shape, or an ``across`` or ``cell`` below 1.
    """
    if not rows or not titles:
        raise ValueError("a contact sheet needs at least one row and one title")
    if any(len(row) != len(titles) for row in rows):
        raise ValueError(f"every row must hold {counted(len(titles), 'picture')}, one per title")
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"{counted(len(captions), 'caption')} for {counted(len(rows), 'row')}")
    if across < 1 or min(cell) < 1:
        raise ValueError("across and cell must be at least 1")
    font = ImageFont.load_default(_TEXT)
    across = min(across, len(rows))
    down = -(-len(rows) // across)
    width, height = cell
    block_width = len(titles) * (width + _MARGIN)
    row_height = height + _MARGIN + (_LINE if captions is not None else 0)
    sheet = Image.new(
        "RGB", (_MARGIN + across * (block_width + _MARGIN), _MARGIN + _LINE + down * row_height + _MARGIN), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for block in range(across):
        for column, title in enumerate(titles):
            left = _MARGIN + block * (block_width + _MARGIN) + column * (width + _MARGIN)
            _write(draw, font, title, left, _MARGIN, width)
    for number, row in enumerate(rows):
        block, line = divmod(number, down)
        left = _MARGIN + block * (block_width + _MARGIN)
        top = _MARGIN + _LINE + line * row_height
        for column, picture in enumerate(row):
            _place(sheet, picture, (left + column * (width + _MARGIN), top), cell)
        if captions is not None:
            _write(draw, font, captions[number], left, top + height + 2, block_width - _MARGIN)
    return sheet


def _place(sheet: Image.Image, picture: np.ndarray | None, corner: tuple[int, int], cell: tuple[int, int]) -> None:
    x, y = corner
    width, height = cell
    if picture is None:
        sheet.paste(_MISSING, (x, y, x + width, y + height))
        return
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise ValueError(f"a picture must be uint8 [H,W,3] or [H,W], not {picture.dtype} {picture.shape}")
    image = Image.fromarray(picture).convert("RGB")
    scale = min(width / image.width, height / image.height, 2.0)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(image, (x + (width - size[0]) // 2, y + (height - size[1]) // 2))


def _write(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    text: str,
    left: int,
    top: int,
    width: int,
) -> None:
    """Write one line, cut with an ellipsis where it would run out of ``width`` pixels."""
    line = text
    while len(line) > 1 and draw.textlength(line, font=font) > width:
        line = line.removesuffix("…")[:-1] + "…"
    draw.text((left, top), line, fill=_INK, font=font)
