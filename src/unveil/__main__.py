"""`python -m unveil` is `unveil`."""

from unveil.cli import app

app()
