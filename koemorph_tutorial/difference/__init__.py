"""What a person asks of two checkpoints: is it the same, and if not, what differs, what matters first."""
