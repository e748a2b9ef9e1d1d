"""A contact sheet of masks: for each image the image itself and its overlay, side by side under one caption."""

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from thfuse_sam.arrays import ImageArray
from thfuse_sam.errors import ImageReadError, MaskReadError, counted
from thfuse_sam.images import Modality, read_for_sam, write_image
from thfuse_sam.masks.overlay import draw_overlay
from thfuse_sam.masks.store import MaskStore
from thfuse_sam.report.pictures import resize, resize_labels, scaled_size
from thfuse_sam.thermal import AS_STORED, InfraredReading

# Colours of the sheet, RGB.
_PAPER = (250, 250, 248)
_INK = (32, 34, 38)
_FAINT = (112, 116, 124)
_MARGIN = 20  # pixels around the sheet and between cards
_CELL = 320  # pixels, width of one picture; pictures keep their aspect ratio, and an upright one is narrower
_GAP = 4  # pixels between an image and its overlay
_CAPTION = 26  # pixels for the line above a card
_FONT_SIZE = 15  # pixels
_COLUMNS = 2  # cards in a row
_PER_SHEET = 40  # cards; a longer sheet is hard to look at

Entry = tuple[Modality, str, Path]  # (modality, name, image path)
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Card:
    """One entry of a sheet."""

    title: str  # for example "ir  street/0001"
    image: ImageArray  # HxWx3, RGB
    label_map: npt.NDArray[np.integer]  # HxW, 0 is "no segment"


def contact_sheet(cards: Sequence[Card]) -> ImageArray:
    """Lay out cards row by row; each shows its image at the left and the overlay at the right.

    Args:
        cards: at least one.

    Returns:
        uint8 HxWx3, RGB.
    """
    if not cards:
        raise ValueError("a contact sheet needs at least one card")
    columns = min(_COLUMNS, len(cards))
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    card_width = 2 * _CELL + _GAP
    # Each picture fills its square cell in one direction.
    sizes = [[scaled_size(card.image.shape, _CELL / max(card.image.shape[:2])) for card in row] for row in rows]
    heights = [max(height for height, _ in row) for row in sizes]

    width = columns * card_width + (columns + 1) * _MARGIN
    height = sum(heights) + len(rows) * (_CAPTION + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_FONT_SIZE)

    top = _MARGIN
    for row, row_sizes, row_height in zip(rows, sizes, heights, strict=True):
        for column, (card, size) in enumerate(zip(row, row_sizes, strict=True)):
            left = _MARGIN + column * (card_width + _MARGIN)
            _draw_caption(draw, font, card, left, top, card_width)
            # Both are brought to the cell's size first, so that an outline is one pixel of the sheet, never less.
            image, label_map = resize(card.image, size), resize_labels(card.label_map, size)
            sheet.paste(Image.fromarray(image), (left, top + _CAPTION))
            overlay = Image.fromarray(draw_overlay(image, label_map))
            sheet.paste(overlay, (left + size[1] + _GAP, top + _CAPTION))
        top += _CAPTION + row_height + _MARGIN
    return np.asarray(sheet)


def write_contact_sheets(
    folder: Path, entries: Sequence[Entry], store: MaskStore, count: int, reading: InfraredReading = AS_STORED
) -> list[Path]:
    """Write contact sheets of `count` masks of `store`, spread evenly over `entries`.

    Args:
        folder: where contact_sheet.png is written, or contact_sheet_001.png and so on if one sheet would be too long.
        entries: those without a readable mask or image are left out.
        count: 0 or less writes nothing.
        reading: how infrared images are read.

    Returns:
        The files that were written.

    Raises:
        OutputError: a file cannot be written.
    """
    cards = itertools.islice(_cards(spread_entries(entries, count), store, reading), max(0, count))
    several = count > _PER_SHEET
    written: list[Path] = []
    while page := list(itertools.islice(cards, _PER_SHEET)):
        path = folder / (f"contact_sheet_{len(written) + 1:03d}.png" if several else "contact_sheet.png")
        write_image(path, contact_sheet(page))
        written.append(path)
    return written


def spread_entries(entries: Sequence[Entry], count: int) -> list[Entry]:
    """About `count` entries in their order: whole scenes (all entries of one name) at even distances."""
    scenes: dict[str, list[Entry]] = {}
    for entry in entries:
        scenes.setdefault(entry[1], []).append(entry)
    names = list(scenes)
    chosen = min(len(names), -(-count * len(names) // max(1, len(entries))))
    return [entry for index in range(chosen) for entry in scenes[names[index * len(names) // chosen]]]


def _cards(entries: Sequence[Entry], store: MaskStore, reading: InfraredReading) -> Iterator[Card]:
    for modality, name, path in entries:
        try:
            image = read_for_sam(path, modality, reading)
            yield Card(f"{modality}  {name}", image, store.read(modality, name, image.shape[:2]))
        except (ImageReadError, MaskReadError):
            continue


def _draw_caption(draw: ImageDraw.ImageDraw, font: _Font, card: Card, left: int, top: int, width: int) -> None:
    """Draw the title at the left; at the right the number of segments and the part of the image that they cover."""
    segments = len(np.unique(card.label_map[card.label_map > 0]))
    covered = np.count_nonzero(card.label_map) / max(1, card.label_map.size)
    facts = f"{counted(segments, 'segment')}, {covered:.0%} covered" if segments else "no segment"
    facts_width = draw.textlength(facts, font=font)
    draw.text((left + width - facts_width, top), facts, fill=_FAINT, font=font)
    title_width = width - facts_width - _MARGIN
    title = _drawable(font, card.title)
    while len(title) > 1 and draw.textlength(title, font=font) > title_width:
        # The end of a long path says more than its start.
        title = "…" + title.lstrip("…")[1:]
    draw.text((left, top), title, fill=_INK, font=font)


def _drawable(font: _Font, text: str) -> str:
    """`text` without the characters that the font lacks: an accented letter loses its accent, others become "?"."""
    # A private-use character is in no font, so its picture is the one that the font draws for missing characters.
    missing = bytes(font.getmask("\ue000"))

    def is_missing(character: str) -> bool:
        return not character.isspace() and bytes(font.getmask(character)) == missing

    drawn = []
    for character in text:
        if is_missing(character):
            character = unicodedata.normalize("NFKD", character)[0]
            character = "?" if is_missing(character) else character
        drawn.append(character)
    return "".join(drawn)
