"""`python -m unveil` is `unveil`."""

import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line; Ctrl-C while it is still being loaded is no traceback either."""
    _own_stdout()
    try:
        from unveil.cli import app
    except KeyboardInterrupt:
        interrupted()
    app()


def interrupted() -> NoReturn:
    """End as Ctrl-C does before a command can say what it found."""
    sys.stderr.write("unveil: interrupted\n")
    sys.exit(130)


def _own_stdout() -> None:
    """What libraries print from C goes to stderr: HiGHS prints lines of its own, and stdout may be somebody's JSON."""
    out = sys.stdout
    try:
        out.flush()
        ours = os.dup(out.fileno())
        os.dup2(sys.stderr.fileno(), out.fileno())
    except (AttributeError, OSError):  # one of them is closed, or no file
        return
    sys.stdout = open(  # noqa: SIM115 - open as long as the program runs
        ours, "w", encoding=out.encoding, errors=out.errors, buffering=1 if out.line_buffering else -1
    )


if __name__ == "__main__":
    main()
