import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.errors import MaskReadError
from thfuse_sam.masks.format import paint_label_map
from thfuse_sam.masks.instances import encode_instances, read_instances


@dataclass(frozen=True)
class FakeInstance:
    mask: np.ndarray
    bbox: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    predicted_iou: float = 0.9
    stability_score: float = 0.95
    point: tuple[float, float] = (2.5, 3.5)

    @property
    def area(self) -> int:
        return int(self.mask.sum())


def random_instances(count: int, shape: tuple[int, int]) -> list[FakeInstance]:
    random = np.random.default_rng(0)
    return [FakeInstance(random.random(shape) < share) for share in np.linspace(0.05, 0.6, count)]


def test_write_and_read_back_in_the_order_of_the_labels(tmp_path: Path) -> None:
    shape = (13, 17)
    instances = random_instances(5, shape)
    path = tmp_path / "a.json"
    path.write_text(encode_instances(instances, shape), encoding="utf-8")
    records = read_instances(path, shape)
    assert [record["label"] for record in records] == [1, 2, 3, 4, 5]
    for record, instance in zip(records, reversed(instances), strict=True):
        np.testing.assert_array_equal(record["mask"], instance.mask)
        assert record["area"] == instance.area
        assert record["bbox"] == list(instance.bbox) and record["point_coords"] == [list(instance.point)]
    # A record's label is its number in the label map.
    painted = paint_label_map([instance.mask for instance in instances], shape)
    for record in records:
        assert record["mask"][painted == record["label"]].all()


def test_plain_json_without_instances(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(encode_instances([], (3, 4)), encoding="utf-8")
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content == {"height": 3, "width": 4, "instances": []}
    assert read_instances(tmp_path / "a.json", (3, 4)) == []


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="the image"):
        encode_instances(random_instances(1, (3, 4)), (4, 3))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"instances": [{}]}',
        '{"instances": [{"segmentation": {"size": [30000, 30000], "counts": "00"}}]}',
        '{"instances": [{"segmentation": {"size": [3, 4], "counts": 5}}]}',
    ],
)
def test_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(MaskReadError, match=r"a\.json: damaged"):
        read_instances(tmp_path / "a.json", (3, 4))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MaskReadError, match="`save_instances`"):
        read_instances(tmp_path / "a.json", (3, 4))
