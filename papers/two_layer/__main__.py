"""A study after the paper: `python -m papers.two_layer success [--size SEEDS] [--out FOLDER]`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

STUDIES = ("success", "radii")


def main() -> None:
    """Run a study, print its table, write its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--size", type=int, help="seeds; the default takes minutes")
    parser.add_argument("--out", type=Path, default=Path("."), help="where the picture goes")
    given = parser.parse_args()
    module = import_module(f"papers.two_layer.{given.study}")
    table = module.run() if given.size is None else module.run(given.size)
    print(module.tell(table))
    import matplotlib

    matplotlib.use("Agg")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.study}.png"
    module.draw(table).savefig(path, dpi=150)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
