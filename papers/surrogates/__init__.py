"""Networks fitted to answers: over-wide students of small teachers, and one large network."""
