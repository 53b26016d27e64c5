"""Server optimisers around a method."""
