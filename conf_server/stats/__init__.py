"""Token statistics to sequence summaries: numpy only, no vLLM, no HTTP."""
