"""`conf-score`, a model of lm-eval's whose log-probabilities come from a conf-server.

Importing this package registers it. lm-eval finds no models by entry points, so that its command
has to be started by this package: `python -m conf_server.integrations.lm_eval --model conf-score`.
"""

try:
    import lm_eval  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "conf-score needs lm-eval: pip install 'conf-server[lm-eval]'", name=error.name
    ) from error

from conf_server.integrations.lm_eval.score_model import ConfScore

__all__ = ["ConfScore"]
