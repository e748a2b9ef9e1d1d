"""Making masks of many images."""
