"""The satisfaction table (Arrow/Parquet), and the SMR and JRD labels derived from it."""
