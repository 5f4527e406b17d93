r"""What is said in words: labels before an answer, sets, quantifiers behind a formula, lists joined by "and"."""

import re

LABELS = "答案|答|解|答え|정답|답|ответ|respuesta|réponse|antwort|lösung|resposta|risposta"
LABEL = re.compile(
    r"\s*(?:(?:the\s+)?(?:final\s+)?(?:answer|result|solution)\s*(?:is\b|:|=)\s*"
    rf"|(?:最终|最後の)?(?:{LABELS})\s*(?:(?:是|为|為|は|는|은|es|est|é|ist|:)\s*:?\s*)|=|\\approx(?![a-z]))",
    re.IGNORECASE,
)
LABEL_BEHIND = re.compile(
    r"\s*(?:\\text\{\s*)?is\s+(?:the|my|our)\s+(?:final\s+|correct\s+)?(?:answer|result|solution)\s*\}?\s*\.?\s*$",
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
SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
CARDINALS = {name: number for number, name in enumerate(SMALL_NUMBERS)} | {
    name: 10 * number for number, name in enumerate(TENS, start=2)
}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6}
PARTS = {
    **{"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7},
    **{"eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100},
}
SIGN = re.compile(r"\s*(?:\\text\{\s*)?(?:negative|minus)\b\s*\}?\s*(?=\S)", re.IGNORECASE)
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
    return LABEL_BEHIND.sub("", text[label.end() :] if label else text)


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


def number_in_words(text: str) -> str | None:
    """The number that a whole answer says in words; None for other words."""
    sign = SIGN.match(text)
    words = re.sub(r"[{}.]|\\text", " ", text[sign.end() :] if sign else text).casefold().replace("-", " ").split()
    if sign and len(words) == 1 and words[0][0].isdecimal():
        return f"-{words[0]}"
    *before, last = words or [""]
    parts = PARTS.get(last) or PARTS.get(last.removesuffix("s"))
    number = _cardinal(before if parts else words)
    if number is None or (number == 0 and len(words) > 1):
        return None
    value = rf"\frac{{{number}}}{{{parts}}}" if parts else str(number)
    return f"-{value}" if sign else value


def _cardinal(words: list[str]) -> int | None:
    """Two hundred and five is 205."""
    total, group = 0, 0
    for index, word in enumerate(words):
        if word in CARDINALS and (group % 100 == 0 or (group % 10 == 0 and group % 100 > 10 and CARDINALS[word] < 10)):
            group += CARDINALS[word]
        elif word in SCALES and group:
            total, group = (total, group * 100) if word == "hundred" else (total + group * SCALES[word], 0)
        elif word != "and" or index == 0 or words[index - 1] not in SCALES or index + 1 == len(words):
            return None
    return total + group if words else None


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
