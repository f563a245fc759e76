"""Streams and pairs from their files, with vectors made once and kept outside the tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.cache.text_view import TextView, analyse
from app.stores.onnx_embedder import OnnxEmbedder, TooLong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[2]
MOST_PAIRS = 6_000  # a larger file is sampled, as every text has to be embedded
SHARED = ROOT.parent / "shared" / "data" / "semantic_cache"


@dataclass(frozen=True, slots=True)
class Stream:
    """Questions in file order, exact duplicates removed; equal labels mean equal answers."""

    name: str
    views: list[TextView]
    vectors: Vectors
    labels: list[str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, whether one answer serves both, and what kind of pair it is."""

    a: TextView
    b: TextView
    cosine: float
    same: bool
    kind: str


def cache_dir() -> Path:
    """Where vectors and the model are kept between runs."""
    path = Path(os.environ.get("BENCH_CACHE_DIR", Path(tempfile.gettempdir()) / "slipstream-bench"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def embedder() -> OnnxEmbedder:
    """The default build of the encoder, made on first use."""
    directory = cache_dir() / "embedder-int8"
    script = str(ROOT / "scripts" / "build-embedder")
    subprocess.run([sys.executable, script, str(directory)], check=True, stdout=subprocess.DEVNULL)
    return OnnxEmbedder(directory)


def vectors(texts: Sequence[str], encoder: OnnxEmbedder, label: str) -> Vectors:
    """float32[n, d] of unit length, from disk when these very texts were embedded by this build."""
    key = sha256("\x00".join([encoder.build_id, *texts]).encode()).hexdigest()[:20]
    path = cache_dir() / f"vectors-{label}-{key}.npy"
    if path.is_file():
        return np.asarray(np.load(path), dtype=np.float32)
    print(f"  embedding {len(texts):,} texts of {label} once", file=sys.stderr, flush=True)
    # A text over the window keeps a zero vector: near nothing, as the gateway bypasses it.
    made = np.zeros((len(texts), encoder.dimension), dtype=np.float32)
    for i, text in enumerate(texts):
        embedded = encoder.embed_with_tokens(text)
        if not isinstance(embedded, TooLong):
            made[i] = embedded.vector
    np.save(path, made)
    return made


def _rows(path: Path) -> list[dict[str, object]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def load_stream(path: Path, encoder: OnnxEmbedder) -> Stream:
    """One stream file of {q, label} lines."""
    seen: set[str] = set()
    texts, labels = [], []
    for row in _rows(path):
        text = str(row["q"])
        key = " ".join(text.lower().split())
        if key in seen:
            continue
        seen.add(key)
        texts.append(text)
        labels.append(str(row["label"]))
    return Stream(
        path.stem, [analyse(t) for t in texts], vectors(texts, encoder, path.stem), labels
    )


def load_pairs(path: Path, encoder: OnnxEmbedder) -> list[Pair]:
    """One pair file of {a, b, label, cat} lines."""
    rows = [
        (str(r["a"]), str(r["b"]), str(r["label"]) == "1", str(r.get("cat", path.stem)))
        for r in _rows(path)
    ]
    if len(rows) > MOST_PAIRS:
        chosen = np.random.default_rng(0).permutation(len(rows))[:MOST_PAIRS]
        rows = [rows[i] for i in sorted(chosen.tolist())]
    texts = sorted({t for a, b, _, _ in rows for t in (a, b)})
    made = vectors(texts, encoder, path.stem)
    place = {t: i for i, t in enumerate(texts)}
    views = {t: analyse(t) for t in texts}
    return [
        Pair(views[a], views[b], float(made[place[a]] @ made[place[b]]), same, kind)
        for a, b, same, kind in rows
    ]
