"""What everything rests on: adapters and states, errors, seeds, the codec, the machine; no model, no data, no run."""
