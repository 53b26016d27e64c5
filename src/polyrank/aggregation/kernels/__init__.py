"""What methods have in common: means of rows, and products kept as stacks."""
