"""`python -m unveil` is `unveil`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being loaded is no traceback either."""
    try:
        from unveil.cli import app
    except KeyboardInterrupt:
        sys.exit("unveil: interrupted")
    app()


if __name__ == "__main__":
    main()
