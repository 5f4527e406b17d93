r"""The outer structure of an answer in plain notation: lists, tuples, sets, intervals, unions, relations; else a leaf.

The parts of a structure are forms again. A leaf is a text without outer structure: an expression or words.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ITEMS = 60  # parts of one list; no ground truth of a sane task has more
MAX_DEPTH = 10  # of brackets and braces


class TooComplexError(ValueError):
    """The answer is beyond what is evaluated; it earns no credit unless it is the ground truth letter by letter."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """An expression or words."""

    text: str


@dataclass(frozen=True, slots=True)
class GroupedForms:
    r"""Items between brackets; without brackets `left` is empty and `right` is "," (a list) or "\lor"."""

    left: str
    items: "tuple[Form, ...]"
    right: str

    @property
    def is_ordered(self) -> bool:
        """Tuples and intervals are; sets and bare lists are not."""
        return self.left in ("(", "[")


@dataclass(frozen=True, slots=True)
class Union:
    r"""Parts joined by \cup."""

    parts: "tuple[Form, ...]"


@dataclass(frozen=True, slots=True)
class Relation:
    """Sides with the signs between them."""

    sides: "tuple[Form, ...]"
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Residues:
    """Numbers modulo another, and the name of what is congruent to them; empty without one."""

    name: str
    values: "Form"
    modulus: int

    @property
    def members(self) -> GroupedForms:
        """The same numbers as a family with an integer parameter."""
        found = self.values.items if isinstance(self.values, GroupedForms) else (self.values,)
        lines = tuple(Leaf(f"{one.text}+{self.modulus} k") for one in found if isinstance(one, Leaf))
        return GroupedForms("", (*lines, Relation((Leaf("k"), Leaf(r"\mathbb{Z}")), (r"\in",))), ",")


Form = Leaf | GroupedForms | Union | Relation | Residues

TOKEN = re.compile(r"\\begin\s*\{[^{}]*\}|\\end\s*\{[^{}]*\}|\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|<|>|=|.", re.DOTALL)
CONDITION = re.compile(r"\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:](.*)")  # of a set of real numbers
PARAMETER = re.compile(r"(.*\S)\s*[|:]\s*([a-zA-Z]\s*\\in\s*\\mathbb\{Z\})\s*")  # of a set of numbers
MODULO = r"(?:\\text\{\s*mod(?:ulo)?\s*\}|\\mod|mod(?:ulo)?)"
CONGRUENCE = re.compile(
    r"(?:(?P<name>[^=<>,]*?)\s*\\equiv(?![a-z]))?(?P<values>(?:(?!\\equiv|\\p?mod)[^=<>])+?)\s*(?:"
    rf"(?:\\pmod|\(\s*{MODULO}|\\text\{{\s*\(\s*mod(?:ulo)?)\s*\{{?\s*(?P<modulus>\d{{1,9}})[\s)}}]*"
    rf"|(?P<operator>{MODULO})\s*\{{?\s*(?P<operand>\d{{1,9}})\s*\}}?)\s*"
)
PIECEWISE = re.compile(r"\\begin\{cases\}((?:(?!\\begin|\\end).)*)\\end\{cases\}", re.DOTALL)
NAMED_TUPLE = re.compile(r"((?:[A-Z]|\\text\{[^{}]*\})'*(?:_\{[^{}]*\})?)\s*(\([^a-zA-Z]*\d.*\))", re.DOTALL)
OPENING = frozenset(("(", "[", "{", r"\{"))
CLOSING = frozenset((")", "]", "}", r"\}"))
SEPARATORS = frozenset((",", ";", r"\lor"))
RELATION_SIGNS = frozenset(("=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx"))
ARROWS = frozenset((r"\Rightarrow", r"\to"))
ALTERNATIVES = ((r"\pm", r"\mp"), ("+", "-"), ("-", "+"))


def form(text: str) -> Form:
    """The structure of a text. Raises TooComplexError when it is too large or too deep."""
    text = text.strip()
    if residues := _residues(text):
        return residues
    for signs, kind in ((SEPARATORS, "list"), ({r"\cup"}, "union"), (RELATION_SIGNS, "relation")):
        parts, found = _split(text, signs)
        if found:
            return _joined(kind, parts, found)
    return _bracketed(text) or _piecewise(text) or _named(text) or _with_both_signs(text) or _ratio(text) or Leaf(text)


def conclusion(text: str) -> str:
    """What stands behind the last arrow of a derivation; the whole text without one."""
    return _split(text, ARROWS)[0][-1].strip()


def _joined(kind: str, parts: list[str], signs: list[str]) -> Form:
    if len(parts) > MAX_ITEMS:
        raise TooComplexError(f"a list of {len(parts)} parts; expected at most {MAX_ITEMS}")
    forms = tuple(form(part) for part in parts if part.strip() or kind != "list")
    if kind == "list":
        return GroupedForms("", tuple(_flattened(forms)), signs[0] if len(set(signs)) == 1 else ",")
    return Union(forms) if kind == "union" else Relation(forms, tuple(signs))


def _flattened(forms: tuple[Form, ...]) -> Iterator[Form]:
    r"""1\pm 2, 3 has three items."""
    for one in forms:
        yield from one.items if isinstance(one, GroupedForms) and one.left == "" else (one,)


def _residues(text: str) -> Residues | None:
    r"""x \equiv 2 \pmod 5; and 2 \mod 5, which is no operation left to do."""
    if "mod" not in text or not (found := CONGRUENCE.fullmatch(text)):
        return None
    values, modulus = found["values"].strip(), int(found["modulus"] or found["operand"])
    is_reduced = values.isdecimal() and len(values) < 10 and int(values) < modulus
    if modulus == 0 or (found["operator"] and found["name"] is None and not is_reduced):
        return None
    return Residues((found["name"] or "").strip(), form(values), modulus)


def _piecewise(text: str) -> Form | None:
    """Values with their conditions, in any order."""
    if not (found := PIECEWISE.fullmatch(text)):
        return None
    rows = [row.split("&") for row in re.split(r"\\\\", found[1])]
    pairs = (GroupedForms("(", tuple(form(part) for part in row), ")") for row in rows)
    return GroupedForms(r"\cases", tuple(pairs), r"\cases")


def _named(text: str) -> Form | None:
    """The point A(1,2) as A = (1,2)."""
    found = NAMED_TUPLE.fullmatch(text)
    inside = _bracketed(found[2]) if found else None
    is_tuple = isinstance(inside, GroupedForms) and inside.left == "("
    return Relation((Leaf(found[1]), inside), ("=",)) if found and inside and is_tuple else None


def _split(text: str, separators: frozenset[str] | set[str]) -> tuple[list[str], list[str]]:
    """The parts between the separators outside all brackets, and those separators."""
    parts, found, start = [], [], 0
    for token, position, depth in _tokens(text):
        if depth == 0 and token in separators:
            parts.append(text[start:position])
            found.append(token)
            start = position + len(token)
    return [*parts, text[start:]], found


def _bracketed(text: str) -> Form | None:
    """A text that one pair of brackets encloses: its items, or what is inside when they only group."""
    tokens = list(_tokens(text))
    if len(tokens) < 2 or tokens[0][0] not in OPENING or tokens[-1][0] not in CLOSING:
        return None
    if any(depth == 0 for _, _, depth in tokens[:-1]):
        return None
    left, right = tokens[0][0], tokens[-1][0]
    inside = text[len(left) : tokens[-1][1]]
    if left == r"\{" and (condition := CONDITION.fullmatch(inside)):
        return form(condition[1])
    if left == r"\{" and (family := PARAMETER.fullmatch(inside)):
        return form(f"{family[1]} , {family[2]}")
    if left == r"\{" and not inside.strip():
        return GroupedForms(left, (), right)
    content = form(inside)
    is_list = isinstance(content, GroupedForms) and content.left == ""
    if left == "{" or (left != r"\{" and not is_list):
        return content
    return GroupedForms(left, content.items if isinstance(content, GroupedForms) and is_list else (content,), right)


def _with_both_signs(text: str) -> Form | None:
    r"""\pm as the list of its two meanings."""
    if r"\pm" not in text:
        return None
    written, first, second = ALTERNATIVES
    return GroupedForms("", tuple(Leaf(_replaced(text, written, signs)) for signs in (first, second)), ",")


def _ratio(text: str) -> Form | None:
    """a : b : c as the tuple of a/b and a/c, whatever the scale; a : b has a value by itself."""
    first, *others = _split(text, {":"})[0]
    if len(others) < 2:
        return None
    return GroupedForms("(", tuple(Leaf(rf"\frac{{{first}}}{{{other}}}") for other in others), ")")


def _replaced(text: str, written: tuple[str, str], signs: tuple[str, str]) -> str:
    for command, sign in zip(written, signs, strict=True):
        text = text.replace(command, sign)
    return text


def _tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Tokens with their positions and their depth; an opening bracket counts as inside, a closing one as outside."""
    depth = 0
    for match in TOKEN.finditer(text):
        token = match[0]
        if token in OPENING or token.startswith(r"\begin"):
            depth += 1
            if depth > MAX_DEPTH:
                raise TooComplexError(f"brackets nested deeper than {MAX_DEPTH}")
        elif token in CLOSING or token.startswith(r"\end"):
            depth -= 1
        yield token, match.start(), depth
