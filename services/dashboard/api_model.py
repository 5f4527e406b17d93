"""What every answer is made of."""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")
LARGEST = 2**31 - 1
"""Of the integers in requests and in answers."""


class ApiModel(BaseModel):
    """Part of an answer; the text below each field is its description in the OpenAPI document."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Page(ApiModel, Generic[Item]):
    """Some of the items."""

    items: list[Item]
    total: int
    """How many there are, on all pages."""
