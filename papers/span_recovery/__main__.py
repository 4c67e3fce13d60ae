"""A figure of the paper: `python -m papers.span_recovery figure-2 [--size N] [--out FOLDER]`."""

from papers.reproduce import reproduce

if __name__ == "__main__":
    reproduce("papers.span_recovery", __doc__)
