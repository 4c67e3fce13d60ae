"""Networks that answer as the model does, fitted where they cannot be read."""
