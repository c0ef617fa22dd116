"""The demo model's architecture: Qwen2.5-VL's classes at 2.4 million parameters."""

from typing import Any

from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from deployments.vision.demo.tokenizer import END_OF_TURN, PADDING
from deployments.vision.qwen.patches import MERGE_SIZE, PATCH_SIZE, TEMPORAL_PATCH_SIZE

_TEXT_WIDTH, _VISION_DEPTH = 160, 3
_ROPE_THETA = 100.0
"""The stock 10,000 would turn a head by less than 0.004 rad from one column of the frame to the next."""


def build_model(tokenizer: Any) -> Qwen2_5_VLForConditionalGeneration:
    """Return the untrained model for this tokenizer's ids; its weights follow from torch's seed."""
    end, padding = (int(tokenizer.convert_tokens_to_ids(token)) for token in (END_OF_TURN, PADDING))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": _TEXT_WIDTH,
            "intermediate_size": 480,
            "num_hidden_layers": 4,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA, "mrope_section": [4, 6, 6]},
            "initializer_range": 0.04,
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": padding,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": _VISION_DEPTH,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": _TEXT_WIDTH,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": TEMPORAL_PATCH_SIZE,
            "tokens_per_second": 2,
            # the stock 0.02 is meant for widths in the thousands
            "initializer_range": 0.06,
            "fullatt_block_indexes": list(range(_VISION_DEPTH)),
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=padding, do_sample=False)
    return model
