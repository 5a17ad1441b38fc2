"""Targets, planners and the probing search: from what the user asks to a plan for an encoder."""
