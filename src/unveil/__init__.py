"""What a neural network gives away. Public names, in the order of the story: ask, find, hide, identify, look inside, tell."""

from unveil.blackbox.oracle import Ledger as Ledger
from unveil.blackbox.oracle import Oracle as Oracle
from unveil.blackbox.sources import as_oracle as as_oracle
from unveil.outcome import BadInput as BadInput
from unveil.outcome import BudgetExceeded as BudgetExceeded
from unveil.outcome import Outcome as Outcome
from unveil.outcome import SourceError as SourceError
from unveil.outcome import UnsteadyAnswers as UnsteadyAnswers
from unveil.outcome import UnveilError as UnveilError
