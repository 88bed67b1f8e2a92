"""The example that is being checkpointed: synthetic voices, a small network, its settings and its training."""
