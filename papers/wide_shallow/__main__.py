"""A study after the papers: `python -m papers.wide_shallow success [--size N] [--out FOLDER]`."""

from papers.reproduce import reproduce

if __name__ == "__main__":
    reproduce("papers.wide_shallow", __doc__)
