"""Adapters in PEFT's files: read where their meaning is certain, written so that plain PEFT loads them."""
