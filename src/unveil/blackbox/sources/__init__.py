"""One way of asking per file; `as_oracle` chooses."""

from unveil.blackbox.sources.choose import as_oracle as as_oracle
