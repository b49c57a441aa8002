"""What runs in the processes that hold the model: samplers, prompt rows, token statistics."""
