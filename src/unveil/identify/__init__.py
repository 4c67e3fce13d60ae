"""The bridge: ask an oracle, return a network.

`unveil.identify` is both this package and the verb: whoever imports a room of the package first can still call it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    """The package, callable as the verb it is named after."""

    __module__ = "unveil.identify.choose"

    def __call__(self, *args: Any, **named: Any) -> Any:
        from unveil.identify.choose import identify

        return identify(*args, **named)


sys.modules[__name__].__class__ = _Verb
