"""Fornasier, Klock, Rauchensteiner: identification of two hidden layer networks."""
