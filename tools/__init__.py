import thfuse_sam  # noqa: F401  # before torch: it settles how torch's threads wait
