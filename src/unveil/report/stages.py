"""The stages of an audit, in the order of telling. A new one is a file with a `Stage` in it and one line here.

The file imports what it needs inside its functions, since `unveil --help` reads this list.
"""

from unveil.report.answers import ANSWERS
from unveil.report.audit import Stage
from unveil.report.checking import CHECKING
from unveil.report.defences import DEFENCES
from unveil.report.extraction import EXTRACTION
from unveil.report.forgetting import FORGETTING
from unveil.report.hiding import HIDING
from unveil.report.identification import IDENTIFICATION
from unveil.report.span import SPAN
from unveil.report.stability import STABILITY

STAGES: tuple[Stage, ...] = (
    ANSWERS,
    SPAN,
    HIDING,
    DEFENCES,
    IDENTIFICATION,
    EXTRACTION,
    FORGETTING,
    STABILITY,
    CHECKING,
)
