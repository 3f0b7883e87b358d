"""Data: the procedural captioned world moving_shapes, TFDS sources and the input pipeline."""
