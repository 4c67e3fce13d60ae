"""Fits of parameters to answers."""
