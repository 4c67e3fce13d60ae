"""The bridge: ask an oracle, return a network."""
