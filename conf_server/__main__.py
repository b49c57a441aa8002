"""`python -m conf_server` is the `conf-server` command."""

import sys

from conf_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
