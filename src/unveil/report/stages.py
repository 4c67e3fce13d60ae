"""The stages of an audit, in the order of telling. A new one is a file with a `Stage` in it and one line here.

The file imports what it needs inside its functions, since `unveil --help` reads this list.
"""

from unveil.report.audit import Stage
from unveil.report.forgetting import FORGETTING
from unveil.report.stability import STABILITY

STAGES: tuple[Stage, ...] = (FORGETTING, STABILITY)
