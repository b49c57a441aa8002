"""`conf-server score` and `conf-server uncertainty`: a file of requests, a file of answers."""
