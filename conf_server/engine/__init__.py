"""Every line that touches vLLM's private engine classes."""
