"""Parameters that several addresses take."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Path, Query

from services.dashboard.api_model import LARGEST

Item = TypeVar("Item")

RunName = Annotated[
    str | None, Query(alias="run", max_length=300, description="One of /runs; none: the live run, else the newest.")
]
RolloutName = Annotated[str, Path(max_length=300)]
Offset = Annotated[int, Query(ge=0, le=LARGEST, description="Items to leave out.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Most items in the answer.")]
Step = Annotated[int | None, Query(ge=0, le=LARGEST)]
Moment = Annotated[float | None, Query(ge=0, le=1e12, allow_inf_nan=False, description="Seconds since the epoch.")]


def page(items: Sequence[Item], offset: int, limit: int) -> list[Item]:
    """The items of one page."""
    return list(items[offset : offset + limit])
