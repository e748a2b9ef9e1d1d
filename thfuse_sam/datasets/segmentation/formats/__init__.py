"""How annotated images lie on disk: one module for each format, each with three functions of the same names.

`detect(root)` tells whether a folder has the format, `find(root)` lists its images and annotations as a `Listing`, and
`read(...)` makes the sample of one of them. `datasets.segmentation.opening.FORMATS` names all formats.
"""
