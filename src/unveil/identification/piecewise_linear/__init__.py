"""Methods for networks of piecewise-linear activations: critical points and hyperplanes."""
