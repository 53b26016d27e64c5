"""A run in its folder, from configuration to summary: what is written, what goes on, who is told."""
