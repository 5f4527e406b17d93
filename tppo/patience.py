"""The former name of `tppo.streams.retry`, until the learner imports that."""

from tppo.streams.retry import until_redis_answers

__all__ = ["until_redis_answers"]
