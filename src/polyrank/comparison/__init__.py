"""The same federation under several methods and seeds."""
