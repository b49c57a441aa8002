"""From what methods need to `Evidence`, by asking a backend and a judge; no HTTP."""
