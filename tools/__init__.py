"""Scripts of the makers; no part of the package."""
