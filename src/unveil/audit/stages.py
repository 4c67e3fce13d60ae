"""The stages of an audit, in the order of telling. A new one is a file with a `Stage` in it and one line here.

The file imports what it needs inside its functions, since `unveil --help` reads this list.
"""

from unveil.audit.sections.answers import ANSWERS
from unveil.audit.sections.beside import BESIDE
from unveil.audit.sections.checking import CHECKING
from unveil.audit.sections.defences import DEFENCES
from unveil.audit.sections.extraction import EXTRACTION
from unveil.audit.sections.forgetting import FORGETTING
from unveil.audit.sections.hiding import HIDING
from unveil.audit.sections.identification import IDENTIFICATION
from unveil.audit.sections.named_inputs import NAMED_INPUTS
from unveil.audit.sections.outputs import OUTPUTS
from unveil.audit.sections.span import SPAN
from unveil.audit.sections.stability import STABILITY
from unveil.audit.stage import Stage

STAGES: tuple[Stage, ...] = (
    ANSWERS,
    SPAN,
    NAMED_INPUTS,
    HIDING,
    OUTPUTS,
    IDENTIFICATION,
    DEFENCES,
    EXTRACTION,
    FORGETTING,
    STABILITY,
    BESIDE,
    CHECKING,
)
