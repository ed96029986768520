"""Prompts to context rows: cleaning, tokenizing, and the umT5 encoder.

Axes in names: L tokens, D width. A leading 1 is the batch.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ftfy
import torch
from torch import Tensor, nn

from livetalk_core.models.audio import count_blocks, rename_keys, require_keys

PAD, EOS = "<pad>", "</s>"
BLOCK_PREFIX = "stack.block."
PUBLISHED_PARTS = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
OUTER_NAMES = {
    "token_embedding.weight": "token_embedding.weight",
    "shared.weight": "token_embedding.weight",
    "encoder.embed_tokens.weight": "token_embedding.weight",
    "token_embd.weight": "token_embedding.weight",
    "enc.output_norm.weight": "stack.final_layer_norm.weight",
    "norm.weight": "stack.final_layer_norm.weight",
    "encoder.final_layer_norm.weight": "stack.final_layer_norm.weight",
}
GGUF_PARTS = {
    "attn_norm": "layer.0.layer_norm",
    **{f"attn_{part}": f"layer.0.SelfAttention.{part}" for part in "qkvo"},
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}
"""Names in GGUF files of T5 encoders (llama.cpp)."""
NOT_ENCODER = ("spiece_model", "decoder.", "lm_head.")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of a umT5 encoder: T5 with gated GELU and a relative position table in every layer."""

    vocab: int
    width: int
    attention_width: int
    heads: int
    ffn_width: int
    layers: int
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


class TextEncoder(nn.Module):
    """umT5's encoder. Attention is not scaled. Norms and softmax are in float32, whatever the weights' type."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        from transformers import UMT5Config
        from transformers.models.umt5.modeling_umt5 import UMT5Stack

        self.config = config
        self.token_embedding = nn.Embedding(config.vocab, config.width)
        self.stack = UMT5Stack(
            UMT5Config(
                vocab_size=2,  # pad and end token; the embedding above replaces the one made here
                d_model=config.width,
                d_kv=config.attention_width // config.heads,
                d_ff=config.ffn_width,
                num_layers=config.layers,
                num_heads=config.heads,
                relative_attention_num_buckets=config.buckets,
                relative_attention_max_distance=config.max_distance,
                layer_norm_epsilon=config.eps,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
                use_cache=False,
                attn_implementation="eager",
            )
        )
        self.stack.set_input_embeddings(None)
        self.eval()

    @torch.no_grad()
    def forward(self, ids_1L: Tensor, mask_1L: Tensor) -> Tensor:
        """Token ids and mask [1, L], ones before zeros -> context rows [sum(mask), D] in the weights' type.

        Padding is cut off before the first layer: it would get no attention, and its rows would be dropped.
        """
        count = int(mask_1L.sum())
        assert ids_1L.shape == mask_1L.shape == (1, mask_1L.shape[1]), "one prompt"
        assert bool(mask_1L[0, :count].all()), "padding comes last"
        embedded_1LD = self.token_embedding(ids_1L[:, :count])
        return self.stack(inputs_embeds=embedded_1LD).last_hidden_state[0]


def clean_prompt(text: str) -> str:
    """Clean a prompt as in the text encoder's training: fixed Unicode, no HTML entities, single spaces."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


class Tokenizer(Protocol):
    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        """A prompt, which is cleaned first -> ids and mask [1, length] int64: tokens, end token, padding."""
        ...


def sentencepiece_tokenizer(model: bytes, length: int = 512) -> Tokenizer:
    """The tokenizer of a SentencePiece model, as umT5 files for ComfyUI have it inside. ValueError without the package."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError:
        raise ValueError("the text encoder's own tokenizer needs the package 'sentencepiece'; pip install sentencepiece") from None
    processor = SentencePieceProcessor(model_proto=model)

    def tokenize(text: str) -> tuple[Tensor, Tensor]:
        return pad_tokens(processor.encode(clean_prompt(text)), processor.eos_id(), max(processor.pad_id(), 0), length)

    return tokenize


def load_tokenizer(folder: str | Path, length: int = 512) -> Tokenizer:
    """The tokenizer in a folder's tokenizer.json (published as google/umt5-xxl).

    Raises FileNotFoundError if that file is missing, ValueError if it lacks the padding or end token.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: put the umT5 tokenizer there (tokenizer.json of google/umt5-xxl)")
    from tokenizers import Tokenizer as TokenizerFile

    tokenizer = TokenizerFile.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pad, eos = tokenizer.token_to_id(PAD), tokenizer.token_to_id(EOS)
    if pad is None or eos is None:
        raise ValueError(f"{path} must know {PAD} and {EOS}, as umT5's does: put tokenizer.json of google/umt5-xxl there")

    def tokenize(text: str) -> tuple[Tensor, Tensor]:
        return pad_tokens(tokenizer.encode(clean_prompt(text), add_special_tokens=False).ids, eos, pad, length)

    return tokenize


def byte_tokenizer(length: int) -> Tokenizer:
    """UTF-8 bytes as tokens, with ids below 259. Needs no file; for small models."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()

    def tokenize(text: str) -> tuple[Tensor, Tensor]:
        ids = tokenizer.encode(clean_prompt(text), add_special_tokens=False)
        return pad_tokens(ids, tokenizer.eos_token_id, tokenizer.pad_token_id, length)

    return tokenize


def pad_tokens(ids: list[int], eos: int, pad: int, length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [1, length] int64: `ids` cut to leave room for the end token, the end token, padding."""
    ids = [*ids[: length - 1], eos]
    padding = length - len(ids)
    return torch.tensor([ids + [pad] * padding]), torch.tensor([[1] * len(ids) + [0] * padding])


def map_text_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a umT5 file, named as published or as in transformers, under TextEncoder's names.

    Raises ValueError, naming keys, if the file is not a umT5 encoder.
    """
    mapped = rename_keys(state, text_key)
    require_keys("umT5", mapped, expected_text_keys(mapped))
    return mapped


def text_config_from(shapes: Mapping[str, tuple[int, ...]], *, max_distance: int = 128) -> TextConfig:
    """The config that fits the shapes of a file's tensors, given under the file's own names. The position table gives the heads."""
    named = rename_keys(shapes, text_key)
    require_keys("umT5", named, expected_text_keys(named))
    first = f"{BLOCK_PREFIX}0.layer."
    buckets, heads = named[f"{first}0.SelfAttention.relative_attention_bias.weight"]
    attention_width, width = named[f"{first}0.SelfAttention.q.weight"]
    return TextConfig(
        vocab=named["token_embedding.weight"][0],
        width=width,
        attention_width=attention_width,
        heads=heads,
        ffn_width=named[f"{first}1.DenseReluDense.wi_0.weight"][0],
        layers=count_blocks(named, BLOCK_PREFIX),
        buckets=buckets,
        max_distance=max_distance,
    )


def text_key(key: str) -> str | None:
    """TextEncoder's name for a file's key. None if it is not part of the encoder; unknown keys are unchanged."""
    if key.startswith(NOT_ENCODER):
        return None
    if key.startswith("encoder.block."):
        return key.replace("encoder.block.", BLOCK_PREFIX, 1)
    block = re.fullmatch(r"enc\.blk\.(\d+)\.(.+)\.weight", key)
    if block and block[2] in GGUF_PARTS:
        return f"{BLOCK_PREFIX}{block[1]}.{GGUF_PARTS[block[2]]}.weight"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", key)
    if block and block[2] in PUBLISHED_PARTS:
        return f"{BLOCK_PREFIX}{block[1]}.{PUBLISHED_PARTS[block[2]]}.weight"
    return OUTER_NAMES.get(key, key)


def expected_text_keys(names: Collection[str]) -> list[str]:
    """All keys of a TextEncoder with as many layers as in `names`."""
    blocks = range(count_blocks(names, BLOCK_PREFIX))
    return [f"{BLOCK_PREFIX}{i}.{part}.weight" for i in blocks for part in PUBLISHED_PARTS.values()] + [
        "token_embedding.weight",
        "stack.final_layer_norm.weight",
    ]
