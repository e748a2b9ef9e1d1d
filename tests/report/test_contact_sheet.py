"""Contact sheets show every card, whole scenes together, and survive odd names and shapes."""

from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.images import Modality, read_visible, write_image
from thfuse_sam.masks.tree import MaskFiles
from thfuse_sam.report.contact_sheet import Card, contact_sheet, write_contact_sheets


def card(title: str = "vi  a", shape: tuple[int, int] = (24, 32), color: tuple[int, ...] = (10, 200, 30)) -> Card:
    label_map = np.zeros(shape, dtype=np.uint8)
    label_map[: shape[0] // 2] = 1
    return Card(title, np.broadcast_to(np.array(color, np.uint8), (*shape, 3)).copy(), label_map)


def has_color(sheet: np.ndarray, color: tuple[int, ...]) -> bool:
    return bool((sheet == np.array(color)).all(axis=-1).any())


def test_every_card_is_on_the_sheet() -> None:
    colors = [(10, 200, 30), (200, 10, 30), (30, 10, 200)]
    sheet = contact_sheet([card(color=color) for color in colors])
    assert sheet.dtype == np.uint8
    assert all(has_color(sheet, color) for color in colors)


def test_one_card_takes_one_column() -> None:
    one, two, three = (contact_sheet([card()] * count) for count in (1, 2, 3))
    assert one.shape[1] < two.shape[1] == three.shape[1]
    assert one.shape[0] == two.shape[0] < three.shape[0]


@pytest.mark.parametrize("shape", [(1, 1), (300, 2), (2, 300)])
def test_odd_shapes(shape: tuple[int, int]) -> None:
    assert contact_sheet([card(shape=shape)]).ndim == 3


@pytest.mark.parametrize("title", ["vi  日本/写真", "ir  scène_é", "vi  " + "very/long/" * 60, ""])
def test_odd_titles(title: str) -> None:
    plain, odd = contact_sheet([card("vi")]), contact_sheet([card(title)])
    assert plain.shape == odd.shape


def test_no_card_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_many_cards_are_split_over_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thfuse_sam.report.contact_sheet._PER_SHEET", 2)
    tree = MaskFiles(tmp_path / "tree")
    image = tmp_path / "a.png"
    write_image(image, card().image)
    entries: list[tuple[Modality, str, Path]] = [("vi", f"{index}", image) for index in range(5)]
    for modality, name, _ in entries:
        tree.write(modality, name, card().label_map)
    written = write_contact_sheets(tmp_path / "preview", entries, tree, 5)
    assert [path.name for path in written] == [f"contact_sheet_{number:03d}.png" for number in (1, 2, 3)]


def test_preview_shows_whole_scenes(tmp_path: Path) -> None:
    tree = MaskFiles(tmp_path / "tree")
    entries: list[tuple[Modality, str, Path]] = []
    for index in range(4):
        for modality, color in (("ir", (40 * index + 9,) * 3), ("vi", (40 * index + 9, 0, 0))):
            path = tmp_path / modality / f"{index}.png"
            write_image(path, card(color=color).image)
            tree.write(modality, f"s/{index}", card().label_map)
            entries.append((modality, f"s/{index}", path))

    (path,) = write_contact_sheets(tmp_path / "preview", entries, tree, 4)

    sheet = read_visible(path)
    shown = [index for index in range(4) if has_color(sheet, (40 * index + 9,) * 3)]
    assert shown == [0, 2]
    assert all(has_color(sheet, (40 * index + 9, 0, 0)) for index in shown)


def test_preview_leaves_out_what_cannot_be_shown(tmp_path: Path) -> None:
    tree = MaskFiles(tmp_path / "tree")
    image = tmp_path / "a.png"
    write_image(image, card().image)
    assert write_contact_sheets(tmp_path / "preview", [("vi", "a", image)], tree, 3) == []
    assert not (tmp_path / "preview").exists()
