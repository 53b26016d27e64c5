"""What everything rests on: adapters and states, errors, seeds, the codec; no model, no data, no run."""
