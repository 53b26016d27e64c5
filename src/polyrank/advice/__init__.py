"""What to use: a method, ranks and a learning rate for a configuration, with the evidence for it."""

from polyrank.advice.advise import Advice, advise
from polyrank.advice.pilot import PILOT_ROUNDS, Trial

__all__ = ["PILOT_ROUNDS", "Advice", "Trial", "advise"]
