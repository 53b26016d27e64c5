"""Several clients in one forward and backward pass over the shared base."""
