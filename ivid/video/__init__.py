"""Clips as arrays: resizing, low-resolution conditioning, noise as a function of place. Imports ivid.spec only."""
