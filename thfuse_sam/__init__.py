"""TH-Fuse-SAM: infrared and visible image fusion guided by Segment Anything masks."""

__version__ = "0.1.0"
