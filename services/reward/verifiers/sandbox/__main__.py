"""Which way of isolation holds on this machine: `python -m services.reward.verifiers.sandbox`; exit code 1: none."""

import sys

from services.reward.verifiers.sandbox.program import IsolationError, isolation

if __name__ == "__main__":
    try:
        print(isolation())
    except IsolationError as error:
        raise SystemExit(f"{error}") from None
    sys.exit(0)
