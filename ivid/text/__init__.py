"""Captions in, frozen T5 embeddings out: tokenizers, the encoder network, its weights and a cache."""
