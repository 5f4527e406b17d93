"""The settings of a run, left in its folder for whoever reads it later: the dashboard, a replay, a resume."""

from pathlib import Path

from learner.persistence.run_identity import write_atomically
from tppo.config import Config, dump
from tppo.run_files import SETTINGS


def leave_settings(config: Config, folder: Path, *, source: Path) -> None:
    """As `tppo run` does, which starts its learner from that very file.

    Where Redis is belongs to the processes, not to the run; and the address may hold a password.
    """
    target = folder / SETTINGS
    if source.resolve() != target.resolve():
        without_address = config.redis.model_copy(update={"url": ""})
        write_atomically(target, dump(config.model_copy(update={"redis": without_address})).encode())
