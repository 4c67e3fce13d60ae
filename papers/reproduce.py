"""The command line that the papers share: run one figure, print its table, write its picture."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path


def figures(package: str) -> list[str]:
    """The figures of a paper: those of its modules that can be run."""
    folder = Path(__file__).parent / package.rpartition(".")[2]
    return sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if "\ndef run(" in path.read_text())


def reproduce(package: str, description: str) -> None:
    """Read the arguments; run, tell and draw the figure they name.

    Args:
        package: Where its modules are, such as `papers.two_layer`. Each has `run(size)`, which measures a table,
            `draw(table)`, which makes a figure of it, and perhaps `tell(table)`, which puts it in words.
        description: For `--help`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    parser.add_argument("figure", choices=figures(package))
    parser.add_argument("--size", type=int, help="samples or seeds; the default of each figure takes minutes")
    parser.add_argument("--out", type=Path, default=Path("."), help="where the picture goes")
    given = parser.parse_args()
    module = import_module(f"{package}.{given.figure.replace('-', '_')}")
    table = module.run() if given.size is None else module.run(given.size)
    print(module.tell(table) if hasattr(module, "tell") else "\n".join(map(str, table[:20])))
    import matplotlib

    matplotlib.use("Agg")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.figure}.png"
    module.draw(table).savefig(path, dpi=150)
    print(f"written: {path}")
