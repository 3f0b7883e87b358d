"""Parameter trees as files: safetensors, a run's EMA, the stages of a cascade."""
