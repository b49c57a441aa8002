"""`conf-server fit`: what the methods that have to be fitted learn of a model's hidden states."""
