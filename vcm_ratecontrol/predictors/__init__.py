"""Networks that predict satisfaction and just recognizable distortion, their weights, and inference."""
