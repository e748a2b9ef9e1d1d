"""The mask tree on disk."""
