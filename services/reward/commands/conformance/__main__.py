"""`tppo reward conformance ADDRESS`: listens, lets one client attach, and reports which rules it keeps."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from services.reward.attached.rpc import SERVICE_NAME, registration
from services.reward.commands.conformance.checks import Examination, Verdict, verdicts
from services.reward.commands.conformance.examined import ExaminingServicer
from tppo.config import ConfigError
from tppo.process.grpc_server import address, start_server
from tppo.security.authentication import Service, token_from_environment
from tppo.security.tls import require_tls_or_token


def main(argv: Sequence[str]) -> int:
    """0 when the client keeps all rules, else 1."""
    parser = argparse.ArgumentParser(
        prog="tppo reward conformance",
        description="Examine a client that offers reward functions: it has to dial here.",
    )
    parser.add_argument("address", metavar="ADDRESS", help="host:port to listen on, such as 127.0.0.1:50052")
    parser.add_argument("--wait", type=float, default=30.0, metavar="SECONDS", help="for the client to attach")
    parser.add_argument("--answer", type=float, default=10.0, metavar="SECONDS", help="for the answers to a batch")
    arguments = parser.parse_args(argv)
    host, port = _host_and_port(arguments.address)
    require_tls_or_token(host, token_from_environment(Service.REWARD))
    found = asyncio.run(_examine(host, port, wait_seconds=arguments.wait, answer_seconds=arguments.answer))
    _print_table(found)
    return 1 if any(one.violation for one in found) else 0


async def _examine(host: str, port: int, *, wait_seconds: float, answer_seconds: float) -> list[Verdict]:
    servicer = ExaminingServicer()
    token = token_from_environment(Service.REWARD)
    server, bound = await start_server(SERVICE_NAME, registration(servicer), host=host, port=port, token=token)
    print(f"waiting for a client at {address(host, bound)}", flush=True)
    examination = Examination(servicer, wait_seconds=wait_seconds, answer_seconds=answer_seconds)
    try:
        return await verdicts(examination)
    finally:
        examination.close()
        await server.stop(None)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"ADDRESS = {text!r}; expected host:port, such as 127.0.0.1:50052")
    return host.strip("[]"), int(port)


def _print_table(found: Sequence[Verdict]) -> None:
    for verdict in found:
        print(f"{'FAILS' if verdict.violation else 'keeps'}  {verdict.rule}")
        if verdict.violation:
            print(f"       {verdict.violation}")
    num_kept = sum(not verdict.violation for verdict in found)
    print(f"{num_kept} of {len(found)} rules kept")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
