"""What several verbs of this room take on their command lines."""

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)
