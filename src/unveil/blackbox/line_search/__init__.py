"""The search for breakpoints along lines: fits to answers, stretches between them, and the pieces they make."""
