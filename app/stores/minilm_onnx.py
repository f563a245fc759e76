"""Write all-MiniLM-L6-v2 as an ONNX graph from its safetensors weights, with numpy alone.

Theory of operation. No model hub is reachable on many machines this gateway runs on, and torch
is a gigabyte that is needed for nothing else. The weights, however, come in an ordinary Python
package, and a six-layer BERT is some eighty ONNX nodes. So the graph is written here directly:
an ONNX file is a protobuf message, of which five message types and two wire types are needed.

Two builds of the same weights:

``fp32``   the reference. Vectors agree with torch to about 1e-6.
``int8``   weights in int8 by output column, activations in uint8 by *token row*. Quantising each
           row by its own range, instead of ORT's usual one range for the whole tensor, makes a
           text's vector independent of what else is in the batch and of padding, and it is
           also nearer to fp32 (figures: `docs`/the benchmark's report).

Thresholds and verifiers belong to one exact build, so a build has an id (a hash of the graph's
bytes) that goes into the vector collection's name.

The output named ``token_vectors`` is float32[batch, tokens, 384], the last hidden state before
pooling: mean pooling and normalisation are done by the caller (fastembed does it), and late
interaction reads the same tensor.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Precision = Literal["fp32", "int8"]

LAYERS: Final = 6
HEADS: Final = 12
WIDTH: Final = 384
_HEAD_WIDTH: Final = WIDTH // HEADS
_LAYER_NORM_EPSILON: Final = 1e-12
# GELU's minimum is -0.16997; a little more keeps every lifted value positive.
_GELU_LIFT: Final = 0.1701
# ORT accepts these everywhere since 1.17; Gelu is an ONNX operator from opset 20 on.
_OPSET: Final = 20
_IR_VERSION: Final = 9

# onnx.TensorProto.DataType, as the specification numbers them.
_TENSOR_TYPES: Final = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_FLOAT, _UINT8, _INT64 = 1, 2, 7


# -- protobuf wire format -------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven payload bits a byte
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _float_field(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _bytes_field(number: int, payload: bytes | str) -> bytes:
    raw = payload.encode() if isinstance(payload, str) else payload
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _tensor(name: str, array: NDArray[np.generic]) -> bytes:
    dims = b"".join(_int_field(1, d) for d in array.shape)
    kind = _int_field(2, _TENSOR_TYPES[array.dtype.name])
    return (
        dims + kind + _bytes_field(8, name) + _bytes_field(9, np.ascontiguousarray(array).tobytes())
    )


def _attribute(name: str, value: float | str | Sequence[int]) -> bytes:
    head = _bytes_field(1, name)
    if isinstance(value, bool | int):
        return head + _int_field(3, int(value)) + _int_field(20, 2)
    if isinstance(value, float):
        return head + _float_field(2, value) + _int_field(20, 1)
    if isinstance(value, str):
        return head + _bytes_field(4, value) + _int_field(20, 3)
    return head + b"".join(_int_field(8, v) for v in value) + _int_field(20, 7)


def _value_info(name: str, element_type: int, dims: Sequence[int | str]) -> bytes:
    shape = b"".join(
        _bytes_field(1, _bytes_field(2, d) if isinstance(d, str) else _int_field(1, d))
        for d in dims
    )
    tensor_type = _int_field(1, element_type) + _bytes_field(2, shape)
    return _bytes_field(1, name) + _bytes_field(2, _bytes_field(1, tensor_type))


class _Graph:
    """Collects nodes and constants in the order in which they are added (a valid topology)."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._count = 0

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self._tensors.append(_tensor(name, array))
        return name

    def node(
        self,
        operator: str,
        *inputs: str,
        output: str = "",
        domain: str = "",
        **attributes: float | str | Sequence[int],
    ) -> str:
        self._count += 1
        name = output or f"v{self._count}"
        body = b"".join(_bytes_field(1, i) for i in inputs) + _bytes_field(2, name)
        body += _bytes_field(3, f"{operator}_{self._count}") + _bytes_field(4, operator)
        body += b"".join(_bytes_field(5, _attribute(k, v)) for k, v in attributes.items())
        if domain:
            body += _bytes_field(7, domain)
        self._nodes.append(body)
        return name

    def model(self, inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
        graph = b"".join(_bytes_field(1, n) for n in self._nodes) + _bytes_field(2, "minilm")
        graph += b"".join(_bytes_field(5, t) for t in self._tensors)
        graph += b"".join(_bytes_field(11, i) for i in inputs)
        graph += b"".join(_bytes_field(12, o) for o in outputs)
        opsets = _bytes_field(8, _int_field(2, _OPSET))
        opsets += _bytes_field(8, _bytes_field(1, "com.microsoft") + _int_field(2, 1))
        return (
            _int_field(1, _IR_VERSION)
            + _bytes_field(2, "slipstream")
            + opsets
            + _bytes_field(7, graph)
        )


# -- weights --------------------------------------------------------------------------------


def read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the float32 tensors of a safetensors file by name.

    Raises:
        ValueError: the header is not that of a safetensors file.
    """
    raw = path.read_bytes()
    try:
        header_bytes = struct.unpack_from("<Q", raw)[0]
        header = json.loads(raw[8 : 8 + header_bytes])
    except (struct.error, ValueError) as exc:
        message = f"{path} is not a safetensors file: {exc}; reinstall the weights package"
        raise ValueError(message) from exc
    base = 8 + header_bytes
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = entry["data_offsets"]
        flat = np.frombuffer(raw, dtype="<f4", count=(end - start) // 4, offset=base + start)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


# -- the graph ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rows:
    """One tensor, as floats and (in the int8 build) as uint8 rows with their scales."""

    plain: str
    quantised: str = ""
    scale: str = ""
    lift: float = 0.0  # added to x before quantising; 0.0 stands for steps around 128


class _Encoder:
    def __init__(self, weights: Mapping[str, NDArray[np.float32]], precision: Precision) -> None:
        self.graph = _Graph()
        self._weights = weights
        self._int8 = precision == "int8"
        g = self.graph
        if not self._int8:
            return
        self._zero_point = g.constant("zero_point", np.array(128, dtype=np.uint8))
        self._offset = g.constant("offset", np.array(128.0, dtype=np.float32))
        self._per_step = g.constant("per_step", np.array(1.0 / 127.0, dtype=np.float32))
        self._floor = g.constant("floor", np.array(1e-9, dtype=np.float32))
        self._last_axis = g.constant("last_axis", np.array([-1], dtype=np.int64))
        self._gelu_lift = g.constant("gelu_lift", np.array(_GELU_LIFT, dtype=np.float32))
        self._per_step_one_sided = g.constant("per_step2", np.array(1.0 / 255.0, dtype=np.float32))

    def rows(self, x: str, *, gelu: bool = False) -> _Rows:
        """Quantise each row of x by its own range (nothing to do in fp32).

        Around zero in general; upwards from GELU's lowest value behind a GELU, which uses all
        256 steps where half would be wasted.
        """
        if not self._int8:
            return _Rows(x)
        g = self.graph
        if gelu:
            lifted = g.node("Add", x, self._gelu_lift)
            top = g.node("ReduceMax", lifted, self._last_axis, keepdims=1)
            scale = g.node("Mul", top, self._per_step_one_sided)
            steps = g.node("Round", g.node("Div", lifted, scale))
            return _Rows(x, g.node("Cast", steps, to=_UINT8), scale, _GELU_LIFT)
        peak = g.node("ReduceMax", g.node("Abs", x), self._last_axis, keepdims=1)
        scale = g.node("Mul", g.node("Max", peak, self._floor), self._per_step)
        shifted = g.node("Add", g.node("Round", g.node("Div", x, scale)), self._offset)
        return _Rows(x, g.node("Cast", shifted, to=_UINT8), scale)

    def linear(
        self, x: _Rows, weight: NDArray[np.float32], bias: NDArray[np.float32], name: str
    ) -> str:
        """Give x @ weight.T + bias; `weight` is float32[out, in] as torch keeps it."""
        g = self.graph
        if not self._int8:
            bias_name = g.constant(f"{name}.bias", bias)
            product = g.node("MatMul", x.plain, g.constant(f"{name}.weight", weight.T))
            return g.node("Add", product, bias_name)
        column_scale = np.maximum(np.abs(weight).max(axis=1), 1e-9).astype(np.float32) / 63.0
        steps = np.rint(weight / column_scale[:, None]).astype(np.int8)
        # (x + lift) @ W.T - lift * W.sum(): the correction is a constant, so it joins the bias.
        correction = x.lift * (steps.astype(np.float32) * column_scale[:, None]).sum(axis=1)
        bias_name = g.constant(f"{name}.bias", (bias - correction).astype(np.float32))
        operands = [x.quantised, g.constant(f"{name}.steps", steps.T)]
        total = g.node("MatMulInteger", *operands, *([] if x.lift else [self._zero_point]))
        scaled = g.node("Mul", g.node("Cast", total, to=_FLOAT), x.scale)
        by_column = g.node(
            "Mul", scaled, g.constant(f"{name}.scale", column_scale.astype(np.float32))
        )
        return g.node("Add", by_column, bias_name)

    def layer_norm(self, x: str, prefix: str) -> str:
        g = self.graph
        gain = g.constant(f"{prefix}.gain", self._weights[f"{prefix}.weight"])
        shift = g.constant(f"{prefix}.shift", self._weights[f"{prefix}.bias"])
        return g.node("LayerNormalization", x, gain, shift, axis=-1, epsilon=_LAYER_NORM_EPSILON)

    def _embeddings(self) -> str:
        g, w = self.graph, self._weights
        words = g.constant("words", w["embeddings.word_embeddings.weight"])
        # Every text is one segment: its type vector is added to the position table beforehand.
        table = (
            w["embeddings.position_embeddings.weight"]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        positions = g.constant("positions", table.astype(np.float32))
        shape = g.node("Shape", "input_ids", start=1, end=2)
        zero = g.constant("zero", np.array([0], dtype=np.int64))
        axes = g.constant("axes0", np.array([0], dtype=np.int64))
        head = g.node("Slice", positions, zero, shape, axes)
        summed = g.node("Add", g.node("Gather", words, "input_ids"), head)
        return self.layer_norm(summed, "embeddings.LayerNorm")

    def _mask(self) -> str:
        """An additive mask float32[batch, 1, 1, tokens]: 0 for text, -1e9 for padding."""
        g = self.graph
        axes = g.constant("axes12", np.array([1, 2], dtype=np.int64))
        mask = g.node("Cast", g.node("Unsqueeze", "attention_mask", axes), to=_FLOAT)
        one = g.constant("one", np.array(1.0, dtype=np.float32))
        far = g.constant("far", np.array(-1e9, dtype=np.float32))
        return g.node("Mul", g.node("Sub", one, mask), far)

    def _attention(self, x: _Rows, mask: str, layer: int) -> str:
        g, w = self.graph, self._weights
        prefix = f"encoder.layer.{layer}.attention.self"
        # 1/sqrt(head width) is folded into the query's weights: one node less a layer.
        shrink = np.float32(1.0 / np.sqrt(_HEAD_WIDTH))
        weight = np.concatenate(
            [
                w[f"{prefix}.query.weight"] * shrink,
                w[f"{prefix}.key.weight"],
                w[f"{prefix}.value.weight"],
            ]
        )
        bias = np.concatenate(
            [w[f"{prefix}.query.bias"] * shrink, w[f"{prefix}.key.bias"], w[f"{prefix}.value.bias"]]
        )
        merged = self.linear(x, weight, bias, f"layer{layer}.qkv")
        split = g.node("Reshape", merged, "split_shape")
        turned = g.node("Transpose", split, perm=(2, 0, 3, 1, 4))  # [3, batch, heads, tokens, 32]
        query = g.node("Gather", turned, "index0", axis=0)
        key = g.node("Gather", turned, "index1", axis=0)
        value = g.node("Gather", turned, "index2", axis=0)
        scores = g.node("MatMul", query, g.node("Transpose", key, perm=(0, 1, 3, 2)))
        weights = g.node("Softmax", g.node("Add", scores, mask), axis=-1)
        context = g.node("Transpose", g.node("MatMul", weights, value), perm=(0, 2, 1, 3))
        return g.node("Reshape", context, "join_shape")

    def build(self) -> bytes:
        g, w = self.graph, self._weights
        g.constant("split_shape", np.array([0, 0, 3, HEADS, _HEAD_WIDTH], dtype=np.int64))
        g.constant("join_shape", np.array([0, 0, WIDTH], dtype=np.int64))
        for i in range(3):
            g.constant(f"index{i}", np.array(i, dtype=np.int64))
        x, mask = self._embeddings(), self._mask()
        for layer in range(LAYERS):
            prefix = f"encoder.layer.{layer}"
            context = self._attention(self.rows(x), mask, layer)
            out = f"{prefix}.attention.output"
            mixed = self.linear(
                self.rows(context),
                w[f"{out}.dense.weight"],
                w[f"{out}.dense.bias"],
                f"layer{layer}.out",
            )
            x = self.layer_norm(g.node("Add", mixed, x), f"{out}.LayerNorm")
            up = f"{prefix}.intermediate.dense"
            wide = self.linear(self.rows(x), w[f"{up}.weight"], w[f"{up}.bias"], f"layer{layer}.up")
            down = f"{prefix}.output"
            narrow = self.linear(
                self.rows(g.node("Gelu", wide), gelu=True),
                w[f"{down}.dense.weight"],
                w[f"{down}.dense.bias"],
                f"layer{layer}.down",
            )
            x = self.layer_norm(g.node("Add", narrow, x), f"{down}.LayerNorm")
        g.node("Identity", x, output="token_vectors")
        dims: tuple[int | str, ...] = ("batch", "tokens")
        return g.model(
            [_value_info("input_ids", _INT64, dims), _value_info("attention_mask", _INT64, dims)],
            [_value_info("token_vectors", _FLOAT, (*dims, WIDTH))],
        )


def build_graph(weights: Mapping[str, NDArray[np.float32]], precision: Precision) -> bytes:
    """Return the ONNX file's bytes; deterministic for the same weights and precision.

    Raises:
        KeyError: a tensor of the six-layer BERT is missing from `weights`.
    """
    return _Encoder(weights, precision).build()


def build_id(graph: bytes, precision: Precision) -> str:
    """A short name of the exact build, fit for a collection's name: ``minilm-int8-<hash>``."""
    return f"minilm-{precision}-{sha256(graph).hexdigest()[:12]}"
