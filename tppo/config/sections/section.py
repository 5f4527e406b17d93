"""What every table of the configuration is made of.

The text under a key is its documentation: `reference.py` turns it into docs/configuration.md. The first paragraph says
what the key means, and ends in its unit in brackets where it is a number; the second says when to change it.
"""

import ipaddress
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# Strict: a number is neither `true` nor a text. Bounds beyond what any run can use catch slips of the keyboard.
MAX_COUNT = 1_000_000
MAX_TOKENS = 16_777_216
PositiveInt = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]
TokensOrZero = Annotated[int, Field(strict=True, ge=0, le=MAX_TOKENS)]
Processes = Annotated[int, Field(strict=True, ge=1, le=1024)]
ProcessesOrZero = Annotated[int, Field(strict=True, ge=0, le=1024)]
Steps = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
StepsOrZero = Annotated[int, Field(strict=True, ge=0, le=1_000_000_000)]
Mebibytes = Annotated[int, Field(strict=True, ge=1, le=1_073_741_824)]
Port = Annotated[int, Field(strict=True, ge=0, le=65535)]
PositiveFloat = Annotated[float, Field(strict=True, ge=1e-12, le=1e12)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0, le=1000)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
Seconds = Annotated[float, Field(strict=True, ge=0.01, le=31_536_000)]
Temperature = Annotated[float, Field(strict=True, ge=0.01, le=100)]
Flag = Annotated[bool, Field(strict=True)]


def expecting(words: str) -> Any:
    """What a pattern means, for the sentence that refuses a value."""
    return Field(json_schema_extra={"expected": words})


def _named(path: Path) -> Path:
    if path == Path() or "\0" in str(path):
        raise ValueError("no file can have this name")
    return path


def _addressed(host: str) -> str:
    if ":" in host or host.replace(".", "").isdigit():
        ipaddress.ip_address(host)  # an address with a port, or a slip of the keyboard, is no name
    return host


Text = Annotated[str, Field(min_length=1), expecting("a text that is not empty")]
Host = Annotated[
    str,
    Field(pattern=r"^[^\s/]+$"),
    AfterValidator(_addressed),
    expecting("a host name or an address without port, such as '127.0.0.1'"),
]
HostOrEmpty = Annotated[
    str,
    Field(pattern=r"^[^\s/]*$"),
    AfterValidator(_addressed),
    expecting("a host name or an address without port, or an empty text"),
]
NamedPath = Annotated[Path, AfterValidator(_named), expecting("a path")]


class Section(BaseModel):
    """A frozen table of the TOML file that refuses unknown keys.

    A number that may be unset is so by `"none"` too: TOML has no null, and a key cannot be absent from an override.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none_unsets_a_number(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        unset = {key for key, value in table.items() if value == "none" and key in cls.model_fields}
        return {
            key: None if key in unset and _is_optional_number(cls.model_fields[key].annotation) else value
            for key, value in table.items()
        }


def _is_optional_number(annotation: Any) -> bool:
    kinds = {get_args(one)[0] if get_origin(one) is Annotated else one for one in get_args(annotation)}
    return NoneType in kinds and bool(kinds & {int, float}) and kinds <= {int, float, NoneType}
