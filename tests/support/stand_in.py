"""`python stand_in.py PYTHON FOLDER -P -m tppo VERB ...`: run the verb in a process of the folder's fork server.

With other arguments the interpreter takes this process's place. Standard library only, so that it costs 20 ms.
"""

import contextlib
import json
import os
import signal
import socket
import sys

TPPO = ["-P", "-m", "tppo"]
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def main() -> None:
    """Until the process ends; then in the same way."""
    python, folder, *arguments = sys.argv[1:]
    if arguments[:3] != TPPO:
        os.execv(python, [python, *arguments])
    inherited = _inherited()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until it is known whom they go to
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(f"{folder}/server")
        wanted = {
            "arguments": arguments[3:],
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "process_id": os.getpid(),
            "descriptors": inherited,
        }
        socket.send_fds(server, [json.dumps(wanted).encode()], inherited)
        process_id = json.loads(server.recv(1024))["started"]
        for number in SIGNALS:
            signal.signal(number, lambda number, _: os.kill(process_id, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        reply = server.recv(1024)
    _end(json.loads(reply)["exited"] if reply else -signal.SIGKILL)


def _inherited() -> list[int]:
    """The descriptors that this process was given: what it has opened itself is closed by exec."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # of the list itself
            found += [descriptor] if os.get_inheritable(descriptor) else []
    return sorted(found)


def _end(exit_code: int) -> None:
    if exit_code < 0:
        if -exit_code in SIGNALS:
            signal.signal(-exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code)


if __name__ == "__main__":
    main()
