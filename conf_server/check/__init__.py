"""`conf-server check`: does the engine give the numbers that transformers gives in float32?"""
