"""Make the demo model's own byte-level BPE tokenizer and chat template."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from deployments.vision.demo.prompts import PARAPHRASES, WORDS
from deployments.vision.demo.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES
from deployments.vision.prompts import DEFAULT_PROMPT

VOCABULARY_SIZE = 768
END_OF_TURN, PADDING = "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = (
    PADDING,
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen2.5-VL's template without its default system message, which would cost every prompt some twenty tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; equal code gives an equal tokenizer. Any text round-trips: there is no normalisation."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in (END_OF_TURN, PADDING)],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train the tokenizer and write `tokenizer.json` and `tokenizer_config.json` into `folder`."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer


def _corpus() -> Iterator[str]:
    """Yield what the model writes and reads: each word of a caption becomes one token."""
    for colour, shape, motion, background in product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS):
        verb = "stays still" if motion == "still" else f"moves {motion}"
        article = "An" if colour[0] in "aeiou" else "A"
        yield f"{article} {colour} {shape} {verb} on a {background} background."
        yield f"a {colour} {shape} and an {colour} {shape}, {verb}"
        yield f'[{{"time": 2.5, "event": "{article} {colour} {shape} {verb}"}}]'
    for prompt in (DEFAULT_PROMPT, *PARAPHRASES):
        yield from [prompt] * 20
    yield from (f" {word}" for word in WORDS * 3)
    yield from ["user\n", "assistant\n", "system\n", "Yes.", "No.", "one", " two", " three", " first", " then"] * 20
