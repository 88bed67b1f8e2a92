"""What a person asks of a checkpoint file or of a run's folder, from the headers alone."""
