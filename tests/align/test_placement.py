import cv2
import numpy as np
import pytest

from tests.align.scenes import SIZE, moved, pair
from thfuse_sam.align.estimate import Alignment, by_size
from thfuse_sam.align.placement import Placement, Placer, resample
from thfuse_sam.align.transform import fitted, similarity
from thfuse_sam.errors import UsageError
from thfuse_sam.images import luma


def placed(matrix: np.ndarray, frame: str = "visible", ir_size=SIZE, vi_size=SIZE) -> Placement:
    return Placement.of(Alignment(matrix, ir_size, vi_size, "similarity", True), frame)


def test_equal_sizes_stay_bit_for_bit() -> None:
    infrared, visible = pair()[0], np.stack([pair()[1]] * 3, axis=2)
    placement = Placement.of(by_size(SIZE, SIZE), "visible")
    same_ir, same_vi = placement.images(infrared, visible)
    assert np.array_equal(same_ir, infrared) and np.array_equal(same_vi, visible)
    assert infrared[placement.common].shape == SIZE
    assert np.array_equal(placement.blend(infrared, luma(visible)), infrared)


@pytest.mark.parametrize(("frame", "size"), [("visible", (48, 64)), ("infrared", (24, 32)), ("100x50", (50, 100))])
def test_frames(frame, size) -> None:
    placement = Placement.of(by_size((24, 32), (48, 64)), frame)
    infrared, visible = np.full((24, 32), 60, np.uint8), np.full((48, 64, 3), 200, np.uint8)
    ir, vi = placement.images(infrared, visible)
    assert ir.shape == vi.shape[:2] == placement.size == size == Placer("size", frame).frame_of((24, 32), (48, 64))
    assert (ir == 60).all() and (vi == 200).all()  # both cover the frame
    assert placement.sees("ir").all() and placement.sees("vi").all()


def test_what_one_camera_sees_alone_keeps_its_picture_with_a_soft_border() -> None:
    placement = placed(np.array([[1, 0, 100.0], [0, 1, 0], [0, 0, 1]]))  # the infrared image begins in column 100
    infrared, visible = np.full(SIZE, 50, np.uint8), np.full((*SIZE, 3), 150, np.uint8)
    assert not placement.sees("ir")[:, :100].any() and placement.sees("ir")[:, 100:].all()
    ir, vi = placement.images(infrared, visible)
    fused = placement.blend(np.full(SIZE, 250, np.uint8), luma(vi))[0].astype(int)
    assert (ir[:, :64] == 150).all() and (fused[:64] == 150).all() and (fused[100:] == 250).all()
    assert (np.diff(fused) >= 0).all() and np.diff(fused).max() < 6
    assert placement.common == (slice(0, 240), slice(100, 320))

    in_infrared = placed(np.array([[1, 0, 100.0], [0, 1, 0], [0, 0, 1]]), "infrared")
    ir, vi = in_infrared.images(infrared, visible)
    assert (vi[:, 256:] == 50).all() and (vi[:, :220] == 150).all() and (ir == 50).all()


def test_no_frame_shows_in_flat_parts() -> None:
    image, move = np.full(SIZE, 40, np.uint8), similarity(1, 1.0, (-6, 5), SIZE)
    for margin in (0, 6):  # black, of an image that was moved
        infrared = cv2.copyMakeBorder(image[margin:, margin:], margin, 0, margin, 0, cv2.BORDER_CONSTANT)
        placement = placed(move @ similarity(0, 1.02, (8, 8), SIZE))
        ir, vi = placement.images(infrared, np.full((*SIZE, 3), 220, np.uint8))
        assert not placement.sees("ir").all()
        fused = placement.blend(np.rint(ir * 0.3 + luma(vi) * 0.7).astype(np.uint8), luma(vi)).astype(int)
        assert max(np.abs(np.diff(fused, axis=axis)).max() for axis in (0, 1)) <= 6
        assert (fused[placement.sees("ir")] == 166).all()


def test_noise_goes_on_where_the_infrared_image_ends() -> None:
    noise = np.random.default_rng(0).integers(40, 80, SIZE).astype(np.uint8)
    ir = placed(np.array([[1, 0, 6.0], [0, 1, 0], [0, 0, 1]])).images(noise, np.full((*SIZE, 3), 60, np.uint8))[0]
    assert np.array_equal(ir[3:-3, 9:], noise[3:-3, 3:-6])
    assert np.array_equal(ir[20:-20, 8], noise[20:-20, 4])  # the outermost pixels may be mixed with black
    outside = ir[20:-20, :6].std(axis=0)
    assert (outside[3:] > 0.7 * noise.std()).all() and (np.diff(outside) > 0).all()  # fading


def test_masks_move_with_their_image_and_keep_their_numbers() -> None:
    mask = np.zeros(SIZE, np.uint16)
    mask[100:140, 50:90], mask[10:20, 300:310] = 700, 3
    moved_mask = placed(np.array([[1, 0, 30.0], [0, 1, -20], [0, 0, 1]])).mask("ir", mask)
    assert moved_mask.dtype == mask.dtype and (moved_mask[80:120, 80:120] == 700).all()
    assert np.count_nonzero(moved_mask == 700) == 1600 and 3 not in moved_mask  # 3 has left the frame
    doubled = placed(fitted(SIZE, (480, 640)), vi_size=(480, 640)).mask("ir", mask)
    assert set(np.unique(doubled)) == {0, 3, 700} and np.count_nonzero(doubled == 700) == 6400


def test_an_aligned_image_lies_on_the_visible_one() -> None:
    infrared, visible = pair(7)
    image, _ = moved(infrared, 3, 1.05, (12, 8))
    placement = Placer("similarity").place(image, np.stack([visible] * 3, axis=2))
    aligned = placement.images(image, np.stack([visible] * 3, axis=2))[0]
    inner = np.s_[60:180, 80:240]
    before, after = (np.abs(one[inner].astype(int) - infrared[inner]).mean() for one in (image, aligned))
    assert after < 0.4 * before


def test_shrinking_averages() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    small = resample(stripes, similarity(0, 1, (0, 0), (64, 64)) @ np.diag([0.25, 0.25, 1]), (16, 16))
    assert np.abs(small[4:12, 4:12].astype(int) - 100).max() < 20


def test_images_that_share_nothing_have_no_common_part() -> None:
    placement = placed(np.array([[1, 0, 1000.0], [0, 1, 0], [0, 0, 1]]))
    rows, columns = placement.common
    assert rows.start == rows.stop or columns.start == columns.stop


def test_a_rig_of_other_sizes(tmp_path) -> None:
    from thfuse_sam.align.rig import Rig

    rig = Rig(tmp_path / "rig.yaml", "shift", (24, 32), (48, 64), np.eye(3))
    with pytest.raises(UsageError, match=r"32x24 .* 64x48, not for 320x240"):
        Placer("size", rig=rig).place(np.zeros(SIZE, np.uint8), np.zeros((*SIZE, 3), np.uint8))
