"""First layers that are convolutions: the few kernels whose shifts all normals are."""
