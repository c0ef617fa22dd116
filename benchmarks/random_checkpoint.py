"""Checkpoints for measuring speed: their answers end where the caller says and nowhere else."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from deployments.vision.catalog import DEMO_DIR
from deployments.vision.demo.tokenizer import PADDING, build_tokenizer
from deployments.vision.qwen.patches import MERGE_SIZE, PATCH_SIZE, TEMPORAL_PATCH_SIZE

FOLDER = Path("build/benchmarks")
_VOCABULARY = 16_000
_TEXT_WIDTH = 1024


def endless_demo() -> Path:
    """Return a copy of the demo checkpoint whose answers do not end by themselves."""
    folder = FOLDER / "endless-demo"
    shutil.copytree(DEMO_DIR, folder, dirs_exist_ok=True)  # each time: the shipped weights may be others by now
    said = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(said | {"eos_token_id": 10**6}))
    return folder


def random_model() -> Path:
    """Return a checkpoint of Qwen2.5-VL's architecture with 0.2 billion random weights, made once.

    Text: 1,024 wide, 12 layers, 16 heads on 4 of keys; vision: 640 wide, 8 layers, half of them windowed. As many words
    as ids, so that texts are alike only where tokens are.
    """
    folder = FOLDER / "random-0.2b"
    if folder.exists():
        return folder
    tokenizer: Any = build_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(_VOCABULARY - len(tokenizer))])
    padding = tokenizer.convert_tokens_to_ids(PADDING)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": _VOCABULARY,
            "hidden_size": _TEXT_WIDTH,
            "intermediate_size": 2816,
            "num_hidden_layers": 12,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            # Wide enough apart for the tokens of an answer to depend on its clip.
            "initializer_range": 0.06,
            "bos_token_id": None,
            "eos_token_id": 10**6,
            "pad_token_id": padding,
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 8,
            "hidden_size": 640,
            "intermediate_size": 1728,
            "num_heads": 10,
            "out_hidden_size": _TEXT_WIDTH,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": TEMPORAL_PATCH_SIZE,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3, 5, 7],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=10**6, pad_token_id=padding, do_sample=False)
    unfinished = folder.with_suffix(".unfinished")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder
