"""Training: streams of random numbers, optimizers, checkpoints, metrics and the one loop."""
