"""What a model can be asked, and who answers."""
