"""Weights from labels alone: what the boundaries between classes give away."""
