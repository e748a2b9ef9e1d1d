"""Filters on batches of images."""

import pytest
import torch
from torch.nn import functional as F

from thfuse_sam.losses.filters import box_mean


@pytest.mark.parametrize("size", [(5, 4), (16, 23)])
def test_box_means_are_those_of_a_pooling_that_leaves_the_border_out(size: tuple[int, int]) -> None:
    values = torch.rand(2, 3, *size)
    expected = F.avg_pool2d(values, 7, stride=1, padding=3, count_include_pad=False)
    torch.testing.assert_close(box_mean(values, 7), expected)
