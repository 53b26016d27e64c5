"""Causal language modelling: to write the answer to a prompt, the assistant's turns, or a text."""

from polyrank.tasks.causal_lm.task import CausalLM

__all__ = ["CausalLM"]
