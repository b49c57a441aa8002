"""`python -m conf_server.scorer`, as the supervisor starts it."""

import sys

from conf_server.scorer.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
