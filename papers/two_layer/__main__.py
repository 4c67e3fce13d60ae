"""A study after the paper: `python -m papers.two_layer success [--size N] [--out FOLDER]`."""

from papers.reproduce import reproduce

if __name__ == "__main__":
    reproduce("papers.two_layer", __doc__)
