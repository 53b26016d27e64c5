"""Byun and Lee (NAACL 2025) repeated, and every other method beside it: ``python -m paper.run TABLE``."""
