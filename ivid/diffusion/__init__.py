"""Gaussian diffusion as equations: arrays in, arrays out. jax only; networks meet it in `ivid.stage`."""
