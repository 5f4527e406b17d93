r"""What is said in words: labels before an answer, sets, quantifiers behind a formula, lists joined by "and", dates."""

import re

LABELS = (
    "答案|答|解|答え|回答|정답|답|ответ|respuesta|réponse|antwort|lösung|resposta|risposta"
    "|odpowiedź|cevap|jawaban|đáp án|الجواب|الإجابة|उत्तर"
)
ARTICLES = r"(?:(?:la|die|a|o|il|el|l['’])\s*)?"
LABEL = re.compile(
    r"\s*(?:(?:the\s+)?(?:(?:final|correct|right)\s+)?(?:answer|result|solution|value|ans|number\s+of\s+[a-z ]+)"
    r"\s*(?:is\b|\.?\s*:|=|\.(?=\s))\s*|there\s+(?:are|is)\s+(?=(?:exactly\s+)?(?:\d|$|\}))"
    rf"|(?:最终|最後の|최종\s*)?{ARTICLES}(?:{LABELS})\s*(?:(?:是|为|為|は|는|은|est|es|ist|é|è|jest|:)\s*:?\s*)"
    r"|=|\\approx(?![a-z]))",
    re.IGNORECASE,
)
LEAD = re.compile(
    r"\s*(?:exactly(?![a-z])|综上所述|综上|所以|因此|故|则|したがって|よって|ゆえに|따라서|第(?=\s*\d))\s*[,，:：]?\s*(?!\s*$)"
)
LABEL_BEHIND = re.compile(
    r"\s*(?:\\text\{\s*)?(?:is\s+(?:the|my|our)\s+(?:final\s+|correct\s+)?(?:answer|result|solution)"
    r"|(?<=[\d}])(?:である|となる|です|입니다|이다))\s*\}?\s*[.。]?\s*$",
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
    (r"(?:all|the|every|any)\s+integers?(?:\s+[a-z])?", r"\mathbb{Z}"),
    (r"(?:all|the|every|any)\s+positive\s+integers?(?:\s+[a-z])?|全体正整数|所有正整数", r"\mathbb{Z}^{+}"),
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
    r"(?<![\s,;(])[\s,;(]*(?:\\forall\s*(?P<letter>[a-zA-Z])"
    r"|(?:\\text\{)?\s*(?:for|where|with)\s+(?:all|every|any|each)\b(?:\s+real)?(?:\s+numbers?|\s+values?(?:\s+of)?)?"
    rf"\s*\}}?\s*(?:\\text\{{)?\s*(?<![a-zA-Z])(?P<other>[a-zA-Z])\s*\}}?)\s*(?:{NUMBER_SETS})?\s*\)?\s*$"
)
FUNCTION_OF = r"[a-zA-Z]\s*\(\s*{letter}\s*\)\s*="
INDEX = re.compile(
    r"(?<![\s,;(])[\s,;(]*(?:\\text\{\s*,?\s*(?:for|where|with)(?:\s+(?:all|any|every|each))?\s*\}\s*)?(?<![a-zA-Z\\])([mn])\s*"
    r"(?:\\in\s*\\mathbb\s*\{?\s*(?:Z\s*\}?\s*\^\s*\{\+\}|N\s*\}?)|\\ge(?![a-z])\s*1(?![\d./^]))\s*\)?\s*$"
)
DOMAIN = re.compile(r"\s*,\s*([a-zA-Z])\s*\\in\s*\\mathbb\s*\{?\s*([RQCZN])\s*\}?\s*$")
INEQUALITY = re.compile(r"[<>]|\\(?:[lg]e|ne)(?![a-z])")
ONLY = re.compile(r"(?<=\S)\s+only(?=\s*\}?\s*\.?\s*$)", re.IGNORECASE)
MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
DATE = re.compile(
    rf"(?:(?:on\s+)?(?P<month>{MONTHS})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?"
    rf"|(?P<other_day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<other_month>{MONTHS}))",
    re.IGNORECASE,
)
ITEM = r"(?:[A-Z][^\W\d_]*|[a-z])"
NAMES = re.compile(rf"{ITEM}(?:\s*,\s*{ITEM})*(?:\s*,?\s+and\s+{ITEM})?")


def without_label(text: str) -> str:
    """The answer without "so the answer is", in some languages."""
    for beginning in (LEAD, LABEL, LEAD):
        if label := beginning.match(text):
            text = text[label.end() :]
    return LABEL_BEHIND.sub("", ONLY.sub("", text))


def set_in_words(text: str) -> str | None:
    """The notation for what a whole answer says in words: no solution, all real numbers except 2, a date."""
    words = WORDS_OF_TEXT.sub(r" \1 ", text).strip(" .。")
    for phrase, notation in SETS:
        if phrase.fullmatch(words.casefold()):
            return notation
    if found := DATE.fullmatch(words):
        return rf"\text{{{(found['month'] or found['other_month']).title()}}}~{found['day'] or found['other_day']}"
    if found := REALS_EXCEPT.fullmatch(words):
        left_out = SEPARATOR.sub(" , ", found["left_out"].replace(r"\lor", ",")).strip(" ,")
        return rf"\mathbb{{R}}\setminus \{{{left_out}\}}"
    return None


def without_quantifier(text: str) -> str:
    """The formula without "for all x": that is what it means without a condition. An index is declared in one way."""
    if found := QUANTIFIER.search(text):
        return text[: found.start()]
    index = INDEX.search(text)
    if index and re.search(rf"(?<![a-zA-Z\\]){index[1]}(?![a-zA-Z])", text[: index.start()]):
        return rf"{text[: index.start()]} , {index[1]} \in \mathbb{{Z}}^{{+}}"
    domain = DOMAIN.search(text)
    is_said = domain and (
        re.search(FUNCTION_OF.format(letter=domain[1]), text) or (domain[2] == "R" and INEQUALITY.search(text))
    )
    return text[: domain.start()] if domain and is_said else text


def listed_names(text: str) -> list[str]:
    """The items of "A, B and C" or "Tom and Ann"; empty for other texts."""
    is_list = NAMES.fullmatch(text) and SEPARATOR.search(text)
    return [item for item in SEPARATOR.split(text) if item] if is_list else []
