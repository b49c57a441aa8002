"""`conf-server score`, `uncertainty` and `think`: a file of requests, a file of answers."""
