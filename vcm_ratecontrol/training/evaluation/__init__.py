"""How good a predictor is: judged by machines that its training never saw, beside the references that limit it."""
