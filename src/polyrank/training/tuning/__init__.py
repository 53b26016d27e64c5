"""What ``auto`` becomes on this machine: measured, not guessed."""
