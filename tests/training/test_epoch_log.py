import csv

from thfuse_sam.training.epoch_log import EpochLog


def test_log_keeps_one_row_an_epoch_and_drops_those_done_over(tmp_path) -> None:
    first = EpochLog(tmp_path, 0)
    for epoch in (1, 2, 3):
        first.write(epoch, {"train/total": epoch / 7})
    first.close()
    second = EpochLog(tmp_path, 2)
    second.write(3, {"train/total": 9.0, "val/total": 0.5})
    second.close()
    with (tmp_path / "train_log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["train/total"] for row in rows] == ["0.142857", "0.285714", "9"]
    assert [row["val/total"] for row in rows] == ["", "", "0.5"]


def test_a_run_without_an_epoch_leaves_nothing(tmp_path) -> None:
    EpochLog(tmp_path, 0).close()
    assert not list(tmp_path.iterdir())
