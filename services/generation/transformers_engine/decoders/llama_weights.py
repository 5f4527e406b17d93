"""The tensors of a Qwen2, Qwen3 or Llama model, arranged for fast decoding.

Query, key and value are one linear, gate and up are one. In float32 the weight of each norm is folded into the linear
that follows it, and on a CPU large weights lie as oneDNN's products of a few rows want them: a decode step is hardly
anything else. The two halves that RoPE rotates against each other are interleaved, so that RoPE is one complex product;
queries and keys are permuted alike, so their products are unchanged.

The tensors are arranged layer by layer, and the memory of each layer can be given back before the next one: beside the
arranged weights there is one layer more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

from services.generation.transformers_engine.decoders.decoder import Free, keep
from services.generation.transformers_engine.decoders.model_weights import Adapter

MIN_PACKED = 2**18
"""Numbers of a weight from which on it is packed. A call of oneDNN takes 10 microseconds more, which smaller products
do not save."""
PACKED_FOR = 32  # rows of the products


class Linear(NamedTuple):
    """weight [out, in] and bias [out]; and an adapter, where it is not in the weight."""

    weight: Tensor
    bias: Tensor | None = None
    adapter: Adapter | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        outputs = functional.linear(inputs, self.weight, self.bias)
        return outputs if self.adapter is None else self.adapter.added_to(outputs, inputs)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Linear":
        """With the outputs, the first dimension of each of its tensors, changed in this way."""
        adapter = self.adapter and self.adapter._replace(up=change(self.adapter.up))
        return Linear(change(self.weight), None if self.bias is None else change(self.bias), adapter)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """The same, whose weight only oneDNN can read."""

    weight: Tensor
    bias: Tensor | None
    adapter: Adapter | None

    def __call__(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise.default(inputs, self.weight, self.bias, "none", [], "")
        return outputs if self.adapter is None else self.adapter.added_to(outputs, inputs)


Product = Linear | PackedLinear


def packed(linear: Linear) -> Product:
    """The linear in the layout that is fastest for decode steps."""
    weight = linear.weight
    is_for_onednn = weight.device.type == "cpu" and weight.dtype == torch.float32 and can_pack()
    if not is_for_onednn or weight.numel() < MIN_PACKED:
        return linear
    return PackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR), linear.bias, linear.adapter)


def can_pack() -> bool:
    """Whether PyTorch was built with oneDNN and has what its own compiler calls for such products."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_onednn and all(hasattr(torch.ops.mkldnn, name) for name in names)


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """x / rms(x) * weight, the mean of squares in float32."""

    weight: Tensor
    eps: float

    def __call__(self, inputs: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        normed = functional.rms_norm(inputs.float(), inputs.shape[-1:], eps=self.eps)
        return normed.to(inputs.dtype) * self.weight


@dataclass(frozen=True, slots=True)
class FoldedNorm:
    """RMS norm without weight and without sqrt(size): the linear that follows holds both."""

    floor: Tensor  # sqrt(size * eps)

    def __call__(self, inputs: Tensor) -> Tensor:
        """[..., size] -> [..., size], x / sqrt(sum of squares + size * eps)."""
        length = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        return inputs / torch.hypot(length, self.floor)


Norm = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block."""

    attention_norm: Norm
    qkv: Product  # heads of queries, then keys, then values
    head_norm: RmsNorm | None  # Qwen3: over each query and key head
    output: Product
    mlp_norm: Norm
    gate_up: Product
    down: Product


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """A whole model."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Norm
    head: Product


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of attention."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Dimensions":
        """Read them off the model's configuration."""
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            rms_norm_eps=config.rms_norm_eps,
        )


class WeightArranger:
    """Builds `LlamaWeights` from the tensors of a state dict, none of which it keeps."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        dimensions: Dimensions,
        *,
        dtype: torch.dtype,
        device: torch.device,
        adapters: Mapping[str, Adapter],
    ) -> None:
        """`adapters`: those that are not in the tensors, by the names of their layers."""
        self._tensors, self._adapters = tensors, adapters
        self._dimensions = dimensions
        self._dtype = dtype
        self._device = device
        self._folds = dtype == torch.float32

    def weights(self, free: Free = keep) -> LlamaWeights:
        """The whole model; `free` is given the names of what has been copied."""
        embedding = self._own("model.embed_tokens.weight")
        free({"model.embed_tokens.weight"})
        layers = []
        for index in range(self._dimensions.num_layers):
            prefix = f"model.layers.{index}."
            layers.append(self._layer(prefix))
            free({name for name in self._tensors if name.startswith(prefix)})
        norm, fold = self._norm("model.norm.weight")
        head = self._own("lm_head.weight") if "lm_head.weight" in self._tensors else embedding
        arranged = LlamaWeights(embedding=embedding, layers=tuple(layers), norm=norm, head=packed(Linear(fold(head))))
        free(self._tensors.keys())
        return arranged

    def _layer(self, prefix: str) -> Layer:
        attention_norm, fold_attention = self._norm(prefix + "input_layernorm.weight")
        mlp_norm, fold_mlp = self._norm(prefix + "post_attention_layernorm.weight")
        qkv = [self._linear(f"{prefix}self_attn.{name}_proj") for name in "qkv"]
        qkv[:2] = [linear.mapped(self._interleave) for linear in qkv[:2]]
        gate_up = [self._linear(f"{prefix}mlp.{name}_proj") for name in ("gate", "up")]
        return Layer(
            attention_norm=attention_norm,
            qkv=_stack(qkv, fold_attention),
            head_norm=self._head_norm(prefix + "self_attn."),
            output=_stack([self._linear(prefix + "self_attn.o_proj")]),
            mlp_norm=mlp_norm,
            gate_up=_stack(gate_up, fold_mlp),
            down=_stack([self._linear(prefix + "mlp.down_proj")]),
        )

    def _tensor(self, name: str) -> Tensor:
        return self._tensors[name].to(self._device, self._dtype)

    def _own(self, name: str) -> Tensor:
        """A copy, for what is used as it is: a view would hold all memory in which the tensors came."""
        return self._tensors[name].to(self._device, self._dtype, copy=True)

    def _linear(self, name: str) -> Linear:
        has_bias = f"{name}.bias" in self._tensors
        bias = self._tensor(f"{name}.bias") if has_bias else None
        return Linear(self._tensor(f"{name}.weight"), bias, self._adapters.get(name))

    def _norm(self, name: str) -> tuple[Norm, Norm]:
        """The norm, and what it does to the weight [out, in] of the linear that follows."""
        weight, eps = self._own(name), self._dimensions.rms_norm_eps
        if not self._folds:
            return RmsNorm(weight, eps), lambda linear: linear
        size = weight.numel()
        return FoldedNorm(weight.new_tensor((size * eps) ** 0.5)), lambda linear: linear * (weight * size**0.5)

    def _head_norm(self, prefix: str) -> RmsNorm | None:
        if f"{prefix}q_norm.weight" not in self._tensors:
            return None
        query, key = (self._interleave(self._tensor(f"{prefix}{name}_norm.weight")) for name in "qk")
        heads = [query] * self._dimensions.num_heads + [key] * self._dimensions.num_kv_heads
        return RmsNorm(torch.stack(heads), self._dimensions.rms_norm_eps)

    def _interleave(self, tensor: Tensor) -> Tensor:
        """Order the outputs of each head as (0, half, 1, half + 1, ...)."""
        halves = tensor.reshape(-1, 2, self._dimensions.head_dim // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)


def _stack(linears: list[Linear], fold: Norm = lambda weight: weight) -> Product:
    """One linear that computes the outputs of all."""
    weight = fold(torch.cat([linear.weight for linear in linears]))
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return packed(Linear(weight, torch.cat(biases) if biases else None, _stacked_adapter(linears)))


def _stacked_adapter(linears: list[Linear]) -> Adapter | None:
    """One that adds to the outputs of each linear what its own does."""
    downs = [linear.adapter.down for linear in linears if linear.adapter is not None]
    ups = [linear.weight.new_zeros(len(linear.weight), 0, dtype=torch.float32) if linear.adapter is None
           else linear.adapter.up for linear in linears]  # fmt: skip
    if not downs:
        return None
    return Adapter(torch.cat(downs), torch.block_diag(*ups))  # type: ignore[no-untyped-call]
