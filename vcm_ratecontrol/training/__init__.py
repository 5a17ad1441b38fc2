"""Data sets from the satisfaction table, losses, training loops and model cards."""
