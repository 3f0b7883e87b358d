"""A run assembled: work folder, batches, hooks, distillation and its report, pre-training of the text encoder."""
