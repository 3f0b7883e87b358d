"""The captioned world moving_shapes: grammar, scenes, drawing, and the observer that says what a clip shows."""
