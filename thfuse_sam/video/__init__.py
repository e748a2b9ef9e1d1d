"""Fusing videos: two streams matched by time, masks carried between key frames, a steady result."""
