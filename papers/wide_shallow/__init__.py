"""Wide shallow networks with biases, and how many answers entangled weights take."""
