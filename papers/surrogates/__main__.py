"""A study after the papers: `python -m papers.surrogates small-teachers [--size N] [--out FOLDER]`."""

from papers.reproduce import reproduce

if __name__ == "__main__":
    reproduce("papers.surrogates", __doc__)
