"""A small client of conf-server, for plain calls and for asyncio. It needs no engine and no torch.

from conf_server.client import Client

client = Client("http://localhost:8000")
paris, lyon = client.score(prompt="The capital of France is", completions=[" Paris", " Lyon"])
paris.logprob
"""

from conf_server.client.async_client import AsyncClient
from conf_server.client.blocking_client import Client
from conf_server.client.chat_answer import Chat, ChatChoice
from conf_server.client.hidden import HiddenStates
from conf_server.client.results import Results
from conf_server.client.scored import Scored
from conf_server.client.served_model import ServedModel
from conf_server.client.server_error import ServerError, UnavailableError
from conf_server.client.thought import AnswerGroup, Thought, Trace, Vote
from conf_server.client.tokens import Candidate, Metric, Token
from conf_server.client.uncertain import Answer, Estimate, Method, Methods, Sample, Uncertainty

__all__ = [
    "Answer",
    "AnswerGroup",
    "AsyncClient",
    "Candidate",
    "Chat",
    "ChatChoice",
    "Client",
    "Estimate",
    "HiddenStates",
    "Method",
    "Methods",
    "Metric",
    "Results",
    "Sample",
    "Scored",
    "ServedModel",
    "ServerError",
    "Thought",
    "Token",
    "Trace",
    "UnavailableError",
    "Uncertainty",
    "Vote",
]
