"""What runs in the worker processes, beside the model."""
