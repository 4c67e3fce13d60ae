"""Sections of the page: one finding per file, a `Stage` in each."""
