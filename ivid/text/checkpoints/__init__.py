"""Weights of T5 encoders in other programs' layouts: T5X, its msgpack, Hugging Face."""
