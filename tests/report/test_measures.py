import csv
import json
import math

from thfuse_sam.report.measures import mean_metrics, write_metrics


def test_metric_files_hold_each_image_and_the_mean(tmp_path) -> None:
    values = {"a": {"EN": 1.0, "MS_SSIM": math.nan}, "b/c": {"EN": 2.0, "MS_SSIM": 0.5}}
    mean = write_metrics(tmp_path, values, "models/best.pth")
    assert mean == {"EN": 1.5, "MS_SSIM": 0.5}
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "EN", "MS_SSIM"], ["a", "1", ""], ["b/c", "2", "0.5"], ["mean", "1.5", "0.5"]]
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert content == {
        "model": "models/best.pth",
        "mean": mean,
        "images": {"a": {"EN": 1.0, "MS_SSIM": None}, "b/c": {"EN": 2.0, "MS_SSIM": 0.5}},
        "infrared": {},
    }
    assert math.isnan(mean_metrics({"a": {"MS_SSIM": math.nan}})["MS_SSIM"])
