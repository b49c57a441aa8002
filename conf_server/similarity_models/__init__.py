"""Models that compare texts, loaded by path. They need torch and transformers."""
