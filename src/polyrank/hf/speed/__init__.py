"""The same results sooner: layers that are packed once, and positions that nobody reads left out."""
