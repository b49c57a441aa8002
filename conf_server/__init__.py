"""vLLM's OpenAI server with confidence built in."""

__version__ = "0.1.0"
