"""ivid: Imagen Video (arXiv 2210.02303) in JAX and Flax."""

__version__ = "0.1.0"
