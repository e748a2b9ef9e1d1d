"""What data sets, cameras and programs call folders and classes: all such lists, and how names are compared.

A name is compared whole, as `whole_name` has it, or word by word, as `words_in` has it; upper and lower case are equal.
"""

import re

# What a file or folder of one modality is called, besides the name of the scene, in programs, cameras (DJI, Autel) and
# data sets (TNO, FLIR ADAS, RGBT234, VEDAI). A file without such a word may be the visible one.
IR_WORDS = {
    *("ir", "i", "infrared", "inf", "infra", "thermal", "therm", "thrm", "lwir", "mwir", "fir", "nir", "tir", "t"),
    *("irx", "previewdata"),
}
VI_WORDS = {
    *("vi", "vis", "visible", "visual", "rgb", "color", "colour", "co", "eo", "optical", "wide", "w", "v", "max", ""),
}
# Parts of a data set as published; of several, the first that is there.
TRAIN_FOLDERS = ("train", "training", "trainval", "trainset")
OTHER_FOLDERS = ("val", "valid", "validation", "test", "testing", "valset", "testset")
HELD_OUT_IR = ("valimgr", "testimgr")  # infrared folders that are for validation or tests
# Images that are annotated.
VOC_IMAGES = "jpegimages"
IMAGE_FOLDERS = ("images", "imgs", "image", "img", "img_dir", "pngimages", "leftimg8bit", VOC_IMAGES)
# Words of folders that hold one file for each image, too, but no images of a camera.
NOT_OF_CAMERAS = {
    *("mask", "masks", "label", "labels", "gt", "annotation", "annotations", "fused", "fusion", "result", "results"),
}
# What systems keep beside a user's files: contents of archives, thumbnails and deleted files.
NOT_OF_USERS = {"__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found"}
# In a folder REPORT that holds REPORT_PAGE, REPORT_PICTURES are a report's, copies of images among them.
REPORT, REPORT_PAGE, REPORT_PICTURES = "report", "index.html", "pictures"
# Classes that are none, without separators.
NO_OBJECTS = {"background"}
TO_IGNORE = {"ignore", "ignored", "ignoredregion", "ignoredregions", "dontcare"}


def whole_name(folder: str) -> set[str]:
    """The name of a folder as the only word."""
    return {folder.casefold()}


def words_in(name: str) -> set[str]:
    """The words in a name, such as "train" in `set_Train`, `train2017` and `NewTrain`."""
    return {word.casefold() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
