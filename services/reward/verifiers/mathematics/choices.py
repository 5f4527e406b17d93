"""Multiple choice: an option's letter, named as such, or with what the option says."""

import re
from dataclasses import dataclass

LETTER = re.compile(r"(?:\\text\{)?\s*\(?\s*([A-Z])\s*\)?\s*\}?")
TITLE = r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)(?:\s+is)?|选项?|選項?)\s*\}?\s*:?"
NAMED = re.compile(rf"(?:\\text\{{)?\s*{TITLE}\s*\(?([A-Z])\)?\s*\}}?|([A-Z])\s*\\text\{{\s*选?项\s*\}}", re.IGNORECASE)
LETTERS = re.compile(r"[A-H]{2,8}")
WITH_ITS_TEXT = re.compile(
    rf"(?:\\text\{{)?\s*(?:{TITLE}\s*)?(?:\(([A-Z])\)|([A-Z])[.:)])\s*:?\s*\}}?\s*(?![-+*/^=<>_,]|\\c[au]p)(\S.*)",
    re.DOTALL | re.IGNORECASE,
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
            letter = next(filter(None, found.groups()))
            return Choice(letter) if letter.isupper() else None
    found = WITH_ITS_TEXT.fullmatch(plain)
    if found is None or ANOTHER.search(found[3]) or not (found[1] or found[2]).isupper():
        return None
    return Choice(found[1] or found[2], found[3].removesuffix("}") if plain.startswith(r"\text") else found[3])


def letters(plain: str) -> frozenset[str]:
    """The options of an answer that names several: AC, or A and C; empty for another answer."""
    if LETTERS.fullmatch(plain):
        return frozenset(plain) if list(plain) == sorted(set(plain)) else frozenset()
    found = [LETTER.fullmatch(part.strip()) for part in plain.split(",")]
    named = [one[1] for one in found if one is not None]
    return frozenset(named) if len(named) == len(found) > 1 and len(set(named)) == len(named) else frozenset()
