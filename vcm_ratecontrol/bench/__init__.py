"""Anchors, BD-rate, savings and the reports made of them."""
