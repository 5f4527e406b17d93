"""`tppo certs FOLDER HOST...`: a development authority, and a certificate for each host that a process is reached by.

For trying mutual TLS between machines, and TLS for browsers. An authority whose key lies in a folder is no authority
for production: there the files come from your own, and the processes are given them all the same.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tppo.config import ConfigError
from tppo.security.environment import TLS_VARIABLES

MAX_DAYS = 825
"""Longer ones are refused by some clients."""


def main(argv: Sequence[str]) -> int:
    """0 when every file is there."""
    parser = argparse.ArgumentParser(
        prog="tppo certs", description="Make a development authority, and certificates that it signs."
    )
    parser.add_argument("folder", type=Path, help="where the files go; an authority that is there signs again")
    parser.add_argument("hosts", nargs="+", metavar="HOST", help="name or address by which a process is reached")
    parser.add_argument("--days", type=int, default=90, help=f"for which they are valid, 1 to {MAX_DAYS} [90]")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.days <= MAX_DAYS:
        raise ConfigError(f"--days {arguments.days}: expected 1 to {MAX_DAYS}")
    try:
        from services.local.certs.making import AUTHORITY, certificate_file, key_file, make
    except ImportError as error:
        raise ConfigError(f"{error}; expected the package cryptography, as tppo[local] installs it") from None
    try:
        make(arguments.folder, arguments.hosts, days=arguments.days)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a folder that can be written to") from None
    for host in arguments.hosts:
        files = (certificate_file(arguments.folder, name) for name in (AUTHORITY, host))
        named = zip(TLS_VARIABLES, (*files, key_file(arguments.folder, host)), strict=True)
        print(" ".join(f"{variable}={path.absolute()}" for variable, path in named))
    return 0


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
