"""Sentence vectors of all-MiniLM-L6-v2 for a baseline, when its ONNX file has been built here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.router.data import ROOT

_MAX_TOKENS = 96
_BATCH = 32


def minilm(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """Unit vectors float64[n, 384]; None where no model lies. EMBEDDER names its folder."""
    named = os.environ.get("EMBEDDER")
    folders = [Path(named)] if named else [ROOT / ".venv" / "embedder"]
    folder = next((one for one in folders if (one / "model.onnx").exists()), None)
    if folder is None or not (folder / "tokenizer.json").exists():
        print("kNN on MiniLM is left out: no model.onnx with tokenizer.json (EMBEDDER=folder)")
        return None
    # Imported here: serving never needs them, and this baseline only when the model is there.
    import onnxruntime  # type: ignore[import-untyped]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    wanted = {one.name for one in session.get_inputs()}
    out = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer.encode_batch(list(texts[start : start + _BATCH]))
        ids = np.array([one.ids for one in batch], dtype=np.int64)
        mask = np.array([one.attention_mask for one in batch], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = session.run(None, {name: feed[name] for name in feed if name in wanted})[0]
        mean = (
            hidden if hidden.ndim == 2 else (hidden * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        )
        out.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(out).astype(np.float64)
