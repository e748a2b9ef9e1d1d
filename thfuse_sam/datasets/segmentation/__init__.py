"""Annotated images for fine-tuning SAM: many formats on disk, one type of sample."""

from thfuse_sam.datasets.segmentation.dataset import OneSample, SegmentationDataset, Subset
from thfuse_sam.datasets.segmentation.opening import open_segmentation_dataset, open_train_and_val
from thfuse_sam.datasets.segmentation.sample import SegmentationSample

__all__ = [
    "OneSample",
    "SegmentationDataset",
    "SegmentationSample",
    "Subset",
    "open_segmentation_dataset",
    "open_train_and_val",
]
