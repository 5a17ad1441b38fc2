"""Building the satisfaction table: encode x decode x machines, sharded, resumable; local or on Ray."""
