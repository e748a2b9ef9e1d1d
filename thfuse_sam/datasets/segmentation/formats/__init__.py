"""How annotated images lie on disk: one module for each format.

Each has a function `read` that makes the sample of one image, and a function `find` that lists a folder's images.
`datasets.segmentation.opening.FORMATS` holds all formats.
"""
