import torch
from torch.nn import functional as F

from thfuse_sam.sam.nano import PointConvolution


def test_a_point_convolution_does_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    layer, images = PointConvolution(512, 64, 1), torch.randn(2, 512, 20, 24)
    threads = torch.get_num_threads()
    values = []
    with torch.no_grad():
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            values.append(layer(images))
        torch.set_num_threads(threads)
        torch.testing.assert_close(values[0], F.conv2d(images, layer.weight, layer.bias))
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])
