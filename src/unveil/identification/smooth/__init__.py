"""Methods for networks of smooth activations."""
