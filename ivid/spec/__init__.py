"""Frozen descriptions of stages, cascades, batches and runs. Pure Python: no jax, no flax."""
