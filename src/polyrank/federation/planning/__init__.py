"""A run before it starts: what it will send and hold, and the ranks that fit; no weights are read."""
