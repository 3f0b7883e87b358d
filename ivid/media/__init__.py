"""Clips, pictures and plots as files. A leaf: numpy arrays in, files out, nothing of ivid imported."""
