"""A figure of the paper: `python -m papers.span_recovery figure-2 [--size N] [--out FOLDER]`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

SHARED = ("__init__", "__main__", "networks", "curves", "train_digits")
FIGURES = sorted(p.stem.replace("_", "-") for p in Path(__file__).parent.glob("*.py") if p.stem not in SHARED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--size", type=int, help="samples; the default of each figure takes minutes")
    parser.add_argument("--out", type=Path, default=Path("."), help="where the picture goes")
    given = parser.parse_args()
    module = import_module(f"papers.span_recovery.{given.figure.replace('-', '_')}")
    table = module.run() if given.size is None else module.run(given.size)
    print(module.tell(table) if hasattr(module, "tell") else "\n".join(map(str, table[:20])))
    import matplotlib

    matplotlib.use("Agg")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.figure}.png"
    module.draw(table).savefig(path, dpi=150)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
