"""The states of recurrent layers and convolutions, for rows that decode together.

A release of transformers without these layers has no family that needs this module.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import (
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from services.generation.transformers_engine.decoders.layouts.aligned_layers import AlignedLayer


class StateLayer(LinearAttentionLayer):
    """The states [rows, ...] of a recurrent layer or a convolution: as large for a long row as for a short one."""

    def __init__(self, number_of_states: int) -> None:
        super().__init__(number_of_states=number_of_states)
        self._num_rows = 0

    def move(self, sources: Tensor, places: Tensor) -> None:
        """Copy rows over others."""
        for states, _ in self._kinds(self):
            for state in filter(_is_set, states.values()):
                state[places] = state[sources]

    def resize(self, num_rows: int, num_columns: int) -> None:
        """Have a state for each row; new ones are zeros, the state in front of a first token."""
        self._num_rows = num_rows
        for states, _ in self._kinds(self):
            for index, state in states.items():
                if state is not None and len(state) != num_rows:
                    states[index] = state.new_zeros(num_rows, *state.shape[1:])
                    states[index][: len(state)] = state[:num_rows]

    def clear(self, places: Tensor) -> None:
        """Let rows begin, whose places others have left."""
        for states, _ in self._kinds(self):
            for state in filter(_is_set, states.values()):
                state[places] = 0

    def take(self, layer: Any, sources: Tensor, places: Tensor) -> None:
        """Copy rows of a layer that prefill has filled."""
        for (mine, are_set), (theirs, _) in zip(self._kinds(self), self._kinds(layer), strict=True):
            for index, state in theirs.items():
                if state is None:
                    continue
                if mine[index] is None:
                    mine[index] = state.new_zeros(self._num_rows, *state.shape[1:])
                    are_set[index] = True
                mine[index][places] = state[sources]
        self.conv_kernel_size, self.has_previous_state = dict(layer.conv_kernel_size), dict(layer.has_previous_state)
        self.device, self.dtype = layer.device, layer.dtype

    @staticmethod
    def _kinds(layer: Any) -> tuple[tuple[dict[int, Any], dict[int, bool]], ...]:
        """Each kind of state, and which of them are in use."""
        return (
            (layer.conv_states, layer.is_conv_states_initialized),
            (layer.recurrent_states, layer.is_recurrent_states_initialized),
        )


class HybridLayer(StateLayer, AlignedLayer):  # type: ignore[misc, override, no-untyped-call]
    """A layer with attention beside a recurrent state."""

    is_compileable = False

    def __init__(self, number_of_states: int, window: int | None = None) -> None:
        AlignedLayer.__init__(self, window)
        StateLayer.__init__(self, number_of_states)

    def move(self, sources: Tensor, places: Tensor) -> None:
        """Copy rows over others."""
        StateLayer.move(self, sources, places)
        AlignedLayer.move(self, sources, places)

    def resize(self, num_rows: int, num_columns: int) -> None:
        """Make room for the rows, of which the longest has `num_columns` tokens."""
        StateLayer.resize(self, num_rows, num_columns)
        AlignedLayer.resize(self, num_rows, num_columns)

    def take(self, layer: Any, sources: Tensor, places: Tensor) -> None:
        """Copy rows of a layer that prefill has filled."""
        StateLayer.take(self, layer, sources, places)
        AlignedLayer.take(self, layer, sources, places)


def aligned_state_layer(layer: Any) -> StateLayer:
    """What stands in for transformers' layer. TypeError: it is of another kind."""
    kind = type(layer)
    if kind is LinearAttentionLayer:
        return StateLayer(layer.number_of_states)
    if kind is LinearAttentionAndFullAttentionLayer:
        return HybridLayer(layer.number_of_states)
    if kind is LinearAttentionAndSlidingWindowAttentionLayer:
        return HybridLayer(layer.number_of_states, layer.sliding_window)
    raise TypeError(f"a cache layer of the kind {kind.__name__}, which is not known here")


def _is_set(state: Tensor | None) -> bool:
    return state is not None
