"""Annotated images for fine-tuning SAM: many formats on disk, one type of sample."""

from thfuse_sam.datasets.segmentation.opening import open_segmentation_dataset, open_train_and_val
from thfuse_sam.datasets.segmentation.sample import SegmentationDataset, SegmentationSample
from thfuse_sam.datasets.segmentation.splits import OneSample, Subset, set_epoch, split_dataset

__all__ = [
    "OneSample",
    "SegmentationDataset",
    "SegmentationSample",
    "Subset",
    "open_segmentation_dataset",
    "open_train_and_val",
    "set_epoch",
    "split_dataset",
]
