"""A second process that reads texts with transformers where the engine cannot.

supervisor   starts the process, and starts it again when it has died
process      loads the model, and answers over a unix socket
client       asks over that socket, as a `ForcingBackend`
wire         what the two say to each other
"""
