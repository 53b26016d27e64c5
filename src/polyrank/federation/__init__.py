"""The round as functions on `ServerState`, and the run around it: config in, run folder out."""
