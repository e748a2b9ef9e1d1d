import numpy as np

from thfuse_sam.masks.placeholder import placeholder_guidance


def test_placeholder() -> None:
    guidance = placeholder_guidance((3, 4))
    assert guidance.shape == (2, 3, 4) and guidance.dtype == np.float32 and (guidance == 0.5).all()
