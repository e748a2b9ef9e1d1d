"""`thfuse_tiny` begins with what `thfuse_lite` has learned."""

from pathlib import Path

import torch
from torch.nn import functional as F

from thfuse_sam.fusion.loading import load_network
from thfuse_sam.models import build_network
from tools.tiny_network import distance, student_of

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_a_student_starts_nearer_to_its_teacher_than_an_untrained_one_and_the_shipped_one_is_nearest() -> None:
    torch.manual_seed(0)
    teacher, _ = load_network(MODELS / "thfuse_lite.safetensors")
    untrained, beginning = build_network("thfuse_tiny").eval(), student_of(teacher, teacher.options).eval()
    shipped, _ = load_network(MODELS / "thfuse_tiny.safetensors")
    ir, vi = F.interpolate(torch.rand(2, 1, 12, 12), scale_factor=8, mode="bicubic").clamp(0, 1).split(1)
    with torch.no_grad():
        far, near, nearest = (
            float(distance(network(ir, vi), teacher(ir, vi))) for network in (untrained, beginning, shipped)
        )
    assert nearest < near < far
