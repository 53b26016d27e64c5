"""Differential privacy of clients: what one of them changes is bounded, and noise hides it.

A released model is (epsilon, delta)-differentially private at the level of clients: with or without any one client, all
its examples included, what is released has almost the same distribution (McMahan et al. 2018). docs/trust.md says what
that covers and what it does not.
"""

from polyrank.privacy.accountant import Accountant, settled
from polyrank.privacy.central import Central
from polyrank.privacy.checks import check
from polyrank.privacy.local import Guard

__all__ = ["Accountant", "Central", "Guard", "check", "settled"]
