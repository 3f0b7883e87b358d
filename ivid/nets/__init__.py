"""Networks (flax.linen): one VideoUNet for every stage of the cascade."""
