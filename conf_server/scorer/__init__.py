"""A second process that reads texts with transformers where the engine cannot.

scorer_options   its flags
supervisor       starts the process, and starts it again when it has died
process          loads the model
connections      answers over a unix socket
scorer_backend   asks over that socket, as a `ForcingBackend`
wire             what the two say to each other
"""
