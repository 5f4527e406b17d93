r"""What is said in words: labels before an answer, sets, quantifiers behind a formula, lists joined by "and"."""

import re

LABELS = "答案|答|解|答え|정답|답|ответ|respuesta|réponse|antwort|lösung|resposta|risposta"
LABEL = re.compile(
    r"\s*(?:(?:the\s+)?(?:final\s+)?(?:answer|result|solution)\s*(?:is\b|:|=)\s*"
    rf"|(?:最终|最後の)?(?:{LABELS})\s*(?:(?:是|为|為|は|는|은|es|est|é|ist|:)\s*:?\s*)|=)",
    re.IGNORECASE,
)
SET_PHRASES = (
    (
        r"(?:there\s+(?:is|are|exists?)\s+)?no(?:\s+(?:real|valid|possible|such|integer))?"
        r"\s+(?:solutions?|roots?|answers?)(?:\s+exists?)?|(?:the\s+)?(?:empty|null)\s+set|无解|無解|解なし|해가\s*없다",
        r"\emptyset",
    ),
    (
        r"(?:(?:for\s+)?(?:all|every|any)\s+)real(?:\s+numbers?|s)?(?:\s+[a-z])?|(?:all|the)\s+reals?(?:\s+numbers?)?",
        r"\mathbb{R}",
    ),
    (r"(?:all|the)\s+integers", r"\mathbb{Z}"),
    (r"(?:positive|plus)?\s*infinity", r"\infty"),
    (r"(?:negative|minus)\s+infinity", r"-\infty"),
    (
        r"dne|(?:it\s+|the\s+limit\s+|this\s+)?(?:does\s+not|doesn't|doesn’t)\s+exist|no\s+limit(?:\s+exists)?",
        r"\text{does not exist}",
    ),
    (
        r"(?:there\s+are\s+)?(?:infinitely\s+many|an\s+infinite\s+number\s+of)(?:\s+(?:real\s+)?solutions?)?",
        r"\text{infinitely many solutions}",
    ),
)
SETS = tuple((re.compile(phrase), notation) for phrase, notation in SET_PHRASES)
WORDS_OF_TEXT = re.compile(r"\\text\{([^{}]*)\}")
REALS_EXCEPT = re.compile(
    r"(?:all|every)\s+reals?(?:\s+numbers?)?(?:\s+[a-z])?(?:\s*,)?\s+(?:except|but|other\s+than|excluding)(?:\s+for)?\s+"
    r"(?:[a-z]\s*=\s*)?(?P<left_out>[^a-z]*(?:\\(?:frac|sqrt|pi)[^a-z]*)*(?:(?:,|and|\\lor|or)[^a-z]+)*)",
    re.IGNORECASE,
)
SEPARATOR = re.compile(r"\s*(?:,\s*and\b|,|\band\b)\s*")
NUMBER_SETS = r"\\in\s*\\mathbb\s*\{?\s*[RQCZN]\s*\}?"
QUANTIFIER = re.compile(
    r"[\s,;(]*(?:\\forall\s*(?P<letter>[a-zA-Z])"
    r"|(?:\\text\{)?\s*(?:for|where|with)\s+(?:all|every|any|each)\b(?:\s+real)?(?:\s+numbers?|\s+values?(?:\s+of)?)?"
    rf"\s*\}}?\s*(?:\\text\{{)?\s*(?<![a-zA-Z])(?P<other>[a-zA-Z])\s*\}}?)\s*(?:{NUMBER_SETS})?\s*\)?\s*$"
)
FUNCTION_OF = r"[a-zA-Z]\s*\(\s*{letter}\s*\)\s*="
DOMAIN = re.compile(rf"\s*,\s*([a-zA-Z])\s*{NUMBER_SETS}\s*$")
ITEM = r"(?:[A-Z][^\W\d_]*|[a-z])"
NAMES = re.compile(rf"{ITEM}(?:\s*,\s*{ITEM})*(?:\s*,?\s+and\s+{ITEM})?")


def without_label(text: str) -> str:
    """The answer without "the answer is", in some languages."""
    label = LABEL.match(text)
    return text[label.end() :] if label else text


def set_in_words(text: str) -> str | None:
    """The notation for what a whole answer says in words: no solution, all real numbers except 2; None for others."""
    words = WORDS_OF_TEXT.sub(r" \1 ", text).strip(" .。")
    for phrase, notation in SETS:
        if phrase.fullmatch(words.casefold()):
            return notation
    if found := REALS_EXCEPT.fullmatch(words):
        left_out = SEPARATOR.sub(" , ", found["left_out"].replace(r"\lor", ",")).strip(" ,")
        return rf"\mathbb{{R}}\setminus \{{{left_out}\}}"
    return None


def without_quantifier(text: str) -> str:
    """The formula without "for all x": that is what it means without a condition."""
    if found := QUANTIFIER.search(text):
        return text[: found.start()]
    domain = DOMAIN.search(text)
    is_of_function = domain and re.search(FUNCTION_OF.format(letter=domain[1]), text)
    return text[: domain.start()] if domain and is_of_function else text


def listed_names(text: str) -> list[str]:
    """The items of "A, B and C" or "Tom and Ann"; empty for other texts."""
    is_list = NAMES.fullmatch(text) and SEPARATOR.search(text)
    return [item for item in SEPARATOR.split(text) if item] if is_list else []
