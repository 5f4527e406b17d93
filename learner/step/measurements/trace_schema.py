"""The columns of a trace (docs/traces.md). No torch here: the audit reads them, too."""

from dataclasses import asdict, dataclass

import pyarrow

SCHEMA = pyarrow.schema(
    [
        pyarrow.field("rollout_id", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), nullable=False),
        pyarrow.field("window_index", pyarrow.int32()),  # null for a token of an earlier window
        pyarrow.field("position", pyarrow.int32(), nullable=False),  # in the response, from 0
        pyarrow.field("token_id", pyarrow.int32(), nullable=False),
        pyarrow.field("policy_version", pyarrow.int32(), nullable=False),  # that sampled it
        pyarrow.field("rollout_logprob", pyarrow.float32(), nullable=False),
        pyarrow.field("old_logprob", pyarrow.float32()),
        pyarrow.field("ratio", pyarrow.float32()),
        pyarrow.field("is_clipped", pyarrow.bool_()),
        pyarrow.field("value", pyarrow.float32(), nullable=False),
        pyarrow.field("raw_advantage", pyarrow.float32()),
        pyarrow.field("advantage", pyarrow.float32()),
        pyarrow.field("return", pyarrow.float32()),
        pyarrow.field("in_window", pyarrow.bool_(), nullable=False),
        pyarrow.field("policy_mask", pyarrow.bool_(), nullable=False),
        pyarrow.field("value_mask", pyarrow.bool_(), nullable=False),
        pyarrow.field("is_sampled", pyarrow.bool_()),  # by the policy; null, or no such column (older releases): it was
    ]
)


@dataclass(frozen=True, slots=True)
class Header:
    """What holds for a whole file; its metadata."""

    step: int  # as in metrics.jsonl; the step trained the weights of version step - 1
    algorithm: str
    mode: str
    max_token_lag: int  # steps

    def metadata(self) -> dict[str, str]:
        """As parquet keeps it."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, schema: pyarrow.Schema) -> "Header":
        """The header of a file that was read. Raises KeyError for a file that is no trace."""
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        return cls(int(metadata["step"]), metadata["algorithm"], metadata["mode"], int(metadata["max_token_lag"]))
