"""Coding each object at its own Just Recognizable Distortion: objects, their levels, maps, and the job."""
