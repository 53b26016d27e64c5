"""What is done about clients that send anything at all: one file per rule, one wrapper around the methods on rows."""
