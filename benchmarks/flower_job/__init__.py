"""What `benchmarks.versus_flower` runs in processes of their own: the job under Flower and pfl, accuracy, memory."""
