"""Runs that go on, as a page on loopback that grows with them."""
