"""Multiple choice: an option's letter, named as such, or with what the option says."""

import re
from dataclasses import dataclass

LETTER = re.compile(r"(?:\\text\{)?\s*\(?\s*([A-Z])\s*\)?\s*\}?")
NAMED = re.compile(
    r"(?:\\text\{)?\s*(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)(?:\s+is)?)\s*:?\s*\(?([A-Z])\)?\s*\}?",
    re.IGNORECASE,
)
WITH_ITS_TEXT = re.compile(
    r"(?:\\text\{)?\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s*\}?\s*(?![-+*/^=<>_,]|\\c[au]p)(\S.*)", re.DOTALL
)
ANOTHER = re.compile(
    r"(?<![a-zA-Z\\])(?:A(?!\s+[a-z])|[B-Z])(?![a-zA-Z])"  # "A risk" begins with an article
    r"|(?<![a-zA-Z])(?:or|and|not|no)(?![a-zA-Z])\s*(?:\(|[A-Z](?![a-zA-Z])|[,}]|$)|\\lor"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An option; `text` is what it says, empty where only the letter is given."""

    letter: str
    text: str = ""


def choice(plain: str) -> Choice | None:
    """The option that an answer in plain notation names; None for another answer, and for several options."""
    for pattern in (LETTER, NAMED):
        if found := pattern.fullmatch(plain):
            return Choice(found[1].upper()) if found[1].isupper() else None
    found = WITH_ITS_TEXT.fullmatch(plain)
    if found is None or ANOTHER.search(found[3]):
        return None
    return Choice(found[1] or found[2], found[3].removesuffix("}") if plain.startswith(r"\text") else found[3])
