"""One client's local fine-tuning, and evaluation of what came out."""
