"""What a participant of a deployed federation runs: its base and data in one place, trained on request."""
