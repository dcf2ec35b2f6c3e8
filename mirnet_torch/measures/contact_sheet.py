"""Contact sheets: rows of pictures under the heads of their columns, each picture under its own line of text."""
from __future__ import annotations

import math
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP = 8, 6  # pixels around the sheet, and between pictures
TEXT_SIZE = 15  # pixels
LINE = 22  # pixels of height that a line of text takes
INK, SOFT, PAPER = "#1c2430", "#5d6b7c", "white"


def contact_sheet(rows: Sequence[tuple[Sequence[str], Sequence[np.ndarray]]], heads: Sequence[str]) -> Image.Image:
    """Return a sheet of pictures.

    Args:
        rows: of every row its texts and its pictures, uint8 (H, W, 3), one for every head; sizes may differ.
        heads: the texts over the columns.
    """
    font = ImageFont.load_default(size=TEXT_SIZE)
    texts = [heads, *(captions for captions, _ in rows)]
    widths = [max([*(math.ceil(font.getlength(each[column])) for each in texts),
                   *(pictures[column].shape[1] for _, pictures in rows)]) for column in range(len(heads))]
    lefts = [MARGIN + sum(widths[:column]) + column * GAP for column in range(len(heads))]
    heights = [LINE + max(picture.shape[0] for picture in pictures) + GAP for _, pictures in rows]
    sheet = Image.new("RGB", (lefts[-1] + widths[-1] + MARGIN, MARGIN + LINE + sum(heights) + MARGIN), PAPER)
    draw, top = ImageDraw.Draw(sheet), MARGIN + LINE
    for left, head in zip(lefts, heads):
        draw.text((left, MARGIN), head, fill=INK, font=font)
    for (captions, pictures), height in zip(rows, heights):
        for left, caption, picture in zip(lefts, captions, pictures):
            draw.text((left, top), caption, fill=SOFT, font=font)
            sheet.paste(Image.fromarray(picture), (left, top + LINE))
        top += height
    return sheet


def thumbnail(picture: np.ndarray, width: int) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3), at most so many pixels wide."""
    image = Image.fromarray(picture)
    image.thumbnail((width, 10 * width), Image.Resampling.BOX)
    return np.array(image)
