"""Whether two forms are equal: ordered tuples, unordered sets, intervals with their ends, and what leaves mean."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter

import sympy

from services.reward.verifiers.mathematics.comparing.equality import are_equal
from services.reward.verifiers.mathematics.comparing.families import are_equal_families, family, without_index
from services.reward.verifiers.mathematics.comparing.leaves import Rules, are_equal_leaves
from services.reward.verifiers.mathematics.comparing.real_sets import are_equal_real_sets
from services.reward.verifiers.mathematics.comparing.relations import (
    are_equal_equations,
    assigned_value,
    relation_name,
    stated_value,
)
from services.reward.verifiers.mathematics.reading.forms import (
    Form,
    GroupedForms,
    Leaf,
    Relation,
    Residues,
    TooComplexError,
)
from services.reward.verifiers.mathematics.reading.values import Value, value

MAX_MATCHED = 20  # items of sets that are compared pair by pair


def are_equal_forms(gold: Form, answer: Form, rules: Rules = Rules()) -> bool:  # noqa: B008 - frozen
    """Whether the answer has the value of the ground truth."""
    if gold == answer:
        return True
    if isinstance(gold, Residues) or isinstance(answer, Residues):
        return _are_equal_residues(gold, answer, rules)
    if family(gold) or family(answer):
        return are_equal_families(gold, answer, partial(are_equal_forms, rules=rules))
    if (formulas := (without_index(gold), without_index(answer))) != (gold, answer):
        return are_equal_forms(*formulas, rules)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _are_equal_relations(gold, answer, rules)
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return are_equal_leaves(gold.text, answer.text, rules)
    if isinstance(gold, GroupedForms) and isinstance(answer, GroupedForms) and _are_equal_groups(gold, answer, rules):
        return True
    if (vectors := _vectors(gold, answer)) is not None:
        return all(map(are_equal, *vectors))
    return _is_single(gold, answer, rules) or are_equal_real_sets(gold, answer)


def _are_equal_relations(gold: Form, answer: Form, rules: Rules) -> bool:
    """Equations of the same name or the same meaning; a value and its assignment; the sets of inequalities."""
    is_same_side = partial(_is_same_side, rules=replace(rules, strict=False))
    left, right = assigned_value(gold, is_same_side), assigned_value(answer, is_same_side)
    if left is not None and right is not None:
        are_names_equal = not (left.name and right.name) or left.name == right.name
        if are_names_equal and are_equal_forms(left.value, right.value, rules):
            return True
    stated = None if isinstance(gold, Relation) else stated_value(answer, is_same_side)
    if stated is not None and are_equal_forms(gold, stated, rules):
        return True
    return are_equal_equations(gold, answer) or are_equal_real_sets(gold, answer)


def _is_same_side(result: Form, side: Form, rules: Rules) -> bool:
    """Whether two sides of one equation are equal; a side that is beyond what is evaluated is not compared."""
    try:
        return are_equal_forms(result, side, rules)
    except TooComplexError:
        return False


def _are_equal_residues(gold: Form, answer: Form, rules: Rules) -> bool:
    """The same numbers modulo the same; a ground truth without a modulus is one of them as written."""
    if isinstance(gold, Residues) and isinstance(answer, Residues):
        are_names_equal = not (gold.name and answer.name) or gold.name == answer.name
        left, right = (_remainders(one) for one in (gold, answer))
        return gold.modulus == answer.modulus and are_names_equal and left is not None and left == right
    if isinstance(gold, Residues):
        is_family = family(answer) is not None
        return are_equal_forms(gold.members if is_family else _with_name(gold), answer, rules)
    assert isinstance(answer, Residues)
    return are_equal_forms(gold, answer.members if family(gold) else _with_name(answer), rules)


def _with_name(one: Residues) -> Form:
    return Relation((Leaf(one.name), one.values), ("=",)) if one.name else one.values


def _remainders(one: Residues) -> set[int] | None:
    items = one.values.items if isinstance(one.values, GroupedForms) else (one.values,)
    numbers = [value(item.text) if isinstance(item, Leaf) else None for item in items]
    integers = [int(number) for number in numbers if number is not None and number.is_Integer]
    return {number % one.modulus for number in integers} if len(integers) == len(numbers) else None


def _is_single(gold: Form, answer: Form, rules: Rules) -> bool:
    r"""\{5\} and 5."""
    left, right = _only_item(gold, rules), _only_item(answer, rules)
    if left is None and right is None:
        return False
    one, other = left or gold, right or answer
    is_alike = isinstance(one, Leaf) or (isinstance(one, GroupedForms) and one.is_ordered)
    return is_alike and are_equal_forms(one, other, rules)


def _only_item(one: Form, rules: Rules) -> Form | None:
    """Of a set; one half or 0.5 is one value, too."""
    if not isinstance(one, GroupedForms) or one.is_ordered or not one.items:
        return None
    first, *others = one.items
    is_repeated = one.right == r"\lor" and all(are_equal_forms(first, other, rules) for other in others)
    return first if not others or is_repeated else None


def _vectors(gold: Form, answer: Form) -> tuple[list[Value], list[Value]] | None:
    """The entries of a column or row and of a tuple; None for other pairs."""
    entries = []
    for one, other in ((gold, answer), (answer, gold)):
        if not (isinstance(one, Leaf) and isinstance(other, GroupedForms) and (other.left, other.right) == ("(", ")")):
            continue
        vector = value(one.text)
        items = [value(item.text) if isinstance(item, Leaf) else None for item in other.items]
        if isinstance(vector, sympy.MatrixBase) and 1 in vector.shape and len(vector.flat()) == len(items):
            entries = [list(vector.flat()), items]
    return (entries[0], entries[1]) if entries and None not in entries[1] else None


def _by_name(group: GroupedForms) -> GroupedForms:
    """y = 2, x = 1 as x = 1, y = 2: a tuple beside them has the order of the names."""
    names = [relation_name(item) for item in group.items]
    if group.left != "" or not all(names) or len(set(names)) < len(names):
        return group
    return replace(
        group, items=tuple(item for _, item in sorted(zip(names, group.items, strict=True), key=itemgetter(0)))
    )


def _are_equal_groups(gold: GroupedForms, answer: GroupedForms, rules: Rules) -> bool:
    if not (gold.is_ordered or answer.is_ordered):
        are_alike = r"\cases" not in (gold.left, answer.left) or gold.left == answer.left
        return are_alike and _are_equal_collections(gold, answer, rules)
    gold, answer = _by_name(gold), _by_name(answer)
    if r"\{" in (gold.left, answer.left) or len(gold.items) != len(answer.items):
        return False
    may_be_intervals = len(gold.items) == 2 and gold.is_ordered and answer.is_ordered
    if may_be_intervals and (gold.left, gold.right) != (answer.left, answer.right):
        return False
    return all(_pairwise(gold.items, answer.items, rules))


def _are_equal_collections(gold: GroupedForms, answer: GroupedForms, rules: Rules) -> bool:
    """Each item of one is an item of the other; in lists without braces as often as in the other."""
    if max(len(gold.items), len(answer.items)) > MAX_MATCHED:
        return len(gold.items) == len(answer.items) and all(_pairwise(gold.items, answer.items, rules))
    matches = [[are_equal_forms(left, right, rules) for right in answer.items] for left in gold.items]
    is_covered = all(map(any, matches)) and all(map(any, zip(*matches, strict=True)))
    is_set = gold.left == r"\{" or (answer.left == r"\{" and _is_without_duplicates(gold.items, rules))
    if not (gold.items and answer.items):
        return not (gold.items or answer.items)
    return is_covered and (is_set or _have_equal_counts(matches))


def _is_without_duplicates(items: Sequence[Form], rules: Rules) -> bool:
    return not any(are_equal_forms(one, other, rules) for index, one in enumerate(items) for other in items[:index])


def _have_equal_counts(matches: list[list[bool]]) -> bool:
    """Whether equal items come equally often: each item's row has as many matches as rows that are like it."""
    return len(matches) == len(matches[0]) and all(matches.count(row) == sum(row) for row in matches)


def _pairwise(gold: Sequence[Form], answer: Sequence[Form], rules: Rules) -> Iterator[bool]:
    return (are_equal_forms(left, right, rules) for left, right in zip(gold, answer, strict=True))
