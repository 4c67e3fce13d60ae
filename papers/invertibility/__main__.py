"""A figure of the paper: `python -m papers.invertibility figure-6 [--size N] [--out FOLDER]`."""

from papers.reproduce import reproduce

if __name__ == "__main__":
    reproduce("papers.invertibility", __doc__)
