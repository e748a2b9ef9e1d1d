"""How annotated images lie on disk: one module for each format, which ends with its `FORMAT`.

Each has a function `read` that makes the sample of one image, and functions `detect` and `find` where those of
`mask_image_format` do not serve. `datasets.segmentation.opening.FORMATS` holds all formats.
"""
