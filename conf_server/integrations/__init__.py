"""conf-server in the tools that people evaluate models with."""
