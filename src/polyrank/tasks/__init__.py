"""What is learned: how texts become batches, the loss, the metrics."""
