"""Tiny random encoders of pictures and texts, as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}


def save_encoders(root: Path) -> Path:
    """Save a CLIP, a DINO, a DINOv2 and a BERT into folders of these names."""
    import transformers

    torch.manual_seed(0)
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in "abcdefgh"), *"abcdefgh"]
    (root / "clip").mkdir(parents=True)
    (root / "clip/vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (root / "clip/merges.txt").write_text("#version: 0.2\n")
    text = {**SMALL, "vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(root / "clip")
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, "pad_token": "<|endoftext|>"}
    (root / "clip/tokenizer_config.json").write_text(json.dumps(tokenizer))
    transformers.ViTModel(transformers.ViTConfig(**VISION), add_pooling_layer=False).save_pretrained(root / "dino")
    transformers.Dinov2Model(transformers.Dinov2Config(**VISION)).save_pretrained(root / "dinov2")
    transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=30)).save_pretrained(root / "bert")
    return root
