"""Finding how infrared images lie on visible ones."""
