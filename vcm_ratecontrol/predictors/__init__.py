"""Networks that predict SMR curves and JRD maps, their weights and their inference."""
