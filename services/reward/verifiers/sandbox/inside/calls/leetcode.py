"""Names that LeetCode has in place before a program and its tests: its nodes, its imports, and its tests' helpers."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

FIELDS = {"ListNode": ("val", "next"), "TreeNode": ("val", "left", "right")}
TYPING = "from typing import *"  # models write annotations and leave the import out
IMPORTS = """
from typing import *
import bisect, collections, datetime, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import inf
"""


class ListNode:
    """A node of a singly linked list."""

    def __init__(self, val: Any = 0, next: "ListNode | None" = None) -> None:
        self.val = val
        self.next = next


class TreeNode:
    """A node of a binary tree."""

    def __init__(self, val: Any = 0, left: "TreeNode | None" = None, right: "TreeNode | None" = None) -> None:
        self.val = val
        self.left = left
        self.right = right


NODE_CLASSES: dict[str, type] = {"ListNode": ListNode, "TreeNode": TreeNode}


def list_node(values: Iterable[Any], node: Any = ListNode) -> Any:
    """The linked list of these values; None without any."""
    first = None
    for value in reversed(list(values)):
        made = node.__new__(node)
        made.val, made.next = value, first
        first = made
    return first


def tree_node(values: Iterable[Any], node: Any = TreeNode) -> Any:
    """The tree of these values level by level, as LeetCode writes it: None where a child is missing."""
    given = iter(values)
    root = _made(node, next(given, None))
    waiting = deque([root] if root else [])
    while waiting:
        parent = waiting.popleft()
        for side in ("left", "right"):
            child = _made(node, next(given, None))
            setattr(parent, side, child)
            if child is not None:
                waiting.append(child)
    return root


def values_of(node: Any) -> list[Any] | None:
    """A linked list or a tree as LeetCode writes it; None for another object."""
    kind = type(node).__name__
    if kind == "ListNode":
        return [one.val for one in _chain(node)]
    if kind != "TreeNode":
        return None
    found: list[Any] = []
    waiting = deque([node])
    while waiting and len(found) < MAX_NODES:
        one = waiting.popleft()
        found.append(None if one is None else one.val)
        if one is not None:
            waiting += (one.left, one.right)
    while found and found[-1] is None:
        found.pop()
    return found


def is_same_list(one: Any, other: Any) -> bool:
    """Whether two linked lists have the same values."""
    return [node.val for node in _chain(one)] == [node.val for node in _chain(other)]


def is_same_tree(one: Any, other: Any) -> bool:
    """Whether two trees have the same form and values."""
    if one is None or other is None:
        return one is other
    values = values_of(one)
    return values is not None and values == values_of(other)


HELPERS = {
    **NODE_CLASSES,
    "list_node": list_node,
    "tree_node": tree_node,
    "is_same_list": is_same_list,
    "is_same_tree": is_same_tree,
}
MAX_NODES = 10**6  # a list that a program closed to a ring has no end


def _chain(node: Any) -> Iterator[Any]:
    for _ in range(MAX_NODES):
        if node is None:
            return
        yield node
        node = node.next
    raise ValueError(f"a linked list of more than {MAX_NODES} nodes")


def _made(node: Any, value: Any) -> Any:
    if value is None:
        return None
    made = node.__new__(node)
    made.val, made.left, made.right = value, None, None
    return made
