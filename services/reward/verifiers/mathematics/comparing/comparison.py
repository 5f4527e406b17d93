"""Whether two forms are equal: ordered tuples, unordered sets, intervals with their ends, and what leaves mean."""

from collections.abc import Sequence

from services.reward.verifiers.mathematics.comparing.families import are_equal_families, family
from services.reward.verifiers.mathematics.comparing.leaves import are_equal_leaves
from services.reward.verifiers.mathematics.comparing.real_sets import are_equal_real_sets
from services.reward.verifiers.mathematics.comparing.relations import are_equal_equations, assigned_value
from services.reward.verifiers.mathematics.reading.forms import Form, Group, Leaf, Relation

MAX_MATCHED = 20  # items of sets that are compared pair by pair


def are_equal_forms(gold: Form, answer: Form) -> bool:
    """Whether the answer has the value of the ground truth."""
    if gold == answer:
        return True
    if family(gold) or family(answer):
        return are_equal_families(gold, answer, are_equal_forms)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _are_equal_relations(gold, answer)
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return are_equal_leaves(gold.text, answer.text)
    if isinstance(gold, Group) and isinstance(answer, Group) and _are_equal_groups(gold, answer):
        return True
    return _is_single(gold, answer) or are_equal_real_sets(gold, answer)


def _are_equal_relations(gold: Form, answer: Form) -> bool:
    """Equations of the same name or the same meaning; a value and its assignment; the sets of inequalities."""
    left, right = assigned_value(gold, are_equal_forms), assigned_value(answer, are_equal_forms)
    if left is not None and right is not None:
        are_names_equal = not (left.name and right.name) or left.name == right.name
        if are_names_equal and are_equal_forms(left.value, right.value):
            return True
    return are_equal_equations(gold, answer) or are_equal_real_sets(gold, answer)


def _is_single(gold: Form, answer: Form) -> bool:
    r"""\{5\} and 5."""
    for group, other in ((gold, answer), (answer, gold)):
        if isinstance(group, Group) and not group.is_ordered and len(group.items) == 1 and isinstance(other, Leaf):
            return are_equal_forms(group.items[0], other)
    return False


def _are_equal_groups(gold: Group, answer: Group) -> bool:
    if not (gold.is_ordered or answer.is_ordered):
        return _are_equal_collections(gold.items, answer.items)
    if r"\{" in (gold.left, answer.left) or len(gold.items) != len(answer.items):
        return False
    may_be_intervals = len(gold.items) == 2 and gold.is_ordered and answer.is_ordered
    if may_be_intervals and (gold.left, gold.right) != (answer.left, answer.right):
        return False
    return all(map(are_equal_forms, gold.items, answer.items))


def _are_equal_collections(gold: Sequence[Form], answer: Sequence[Form]) -> bool:
    """Each item of one is an item of the other."""
    if max(len(gold), len(answer)) > MAX_MATCHED:
        return len(gold) == len(answer) and all(map(are_equal_forms, gold, answer))
    matches = [[are_equal_forms(left, right) for right in answer] for left in gold]
    return all(map(any, matches)) and all(map(any, zip(*matches, strict=True)))
