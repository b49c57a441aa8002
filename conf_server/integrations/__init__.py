"""Other projects' programs with a conf-server as their model."""
