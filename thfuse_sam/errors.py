"""Errors that a user can act on: one class per kind of mistake, one line each.

A message names the argument or file, its value and the remedy. It names options in backticks, as fields of the options'
classes are called; the commands spell them as they are typed. `exit_status` is what a command returns: 2 for wrong
usage, 1 for a failure during the work.
"""


class ThFuseError(Exception):
    """Base of all errors that are reported as one line instead of a traceback."""

    exit_status = 1


class UsageError(ThFuseError):
    """An option has a value that cannot work."""

    exit_status = 2


class PairError(UsageError):
    """No image found, no pair matches, or two files claim the same name."""


class ImageReadError(ThFuseError):
    """An image file is missing, truncated, too large or not an image."""


class ImageSizeError(ThFuseError):
    """Infrared and visible image of a pair differ in size."""


class MaskReadError(ThFuseError):
    """A mask file is missing, has pickled content, a wrong type or a wrong shape."""


class ManifestError(UsageError):
    """A mask tree was made by other settings than the ones asked for, or its manifest is unreadable."""


class CheckpointError(ThFuseError):
    """A checkpoint is missing, truncated, refused, or belongs to another network or model type."""


class DeviceError(UsageError):
    """A device was asked for that this machine does not have."""


class OutputError(ThFuseError):
    """An output folder or file cannot be written (permissions, disk full)."""


class WorkerError(ThFuseError):
    """The machines or processes that were to do the work are not there, or went away."""


class TrainingError(ThFuseError):
    """Training cannot go on, for example because the loss is not finite."""


class SampleError(ThFuseError):
    """An annotated image cannot be used: no partner, no object, a polygon outside the image, and so on."""


class DownloadError(ThFuseError):
    """A data set cannot be fetched, or what was fetched is refused."""
