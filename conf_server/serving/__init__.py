"""HTTP: request and response models, routes, and the subclasses of vLLM's serving classes."""
