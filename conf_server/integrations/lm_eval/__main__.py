"""`python -m conf_server.integrations.lm_eval`: the command `lm_eval`, which knows `conf-score`."""

from lm_eval.__main__ import cli_evaluate

# The package, imported before this module, has registered the model.
if __name__ == "__main__":
    cli_evaluate()
