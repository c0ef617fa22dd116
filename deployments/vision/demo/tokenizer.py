"""Make the demo model's own byte-level BPE tokenizer and chat template."""

from collections.abc import Iterator
from itertools import chain, product

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from deployments.vision.demo.answers import NUMBERS, UNKNOWN
from deployments.vision.demo.prompts import DESCRIBE, QUESTIONS, WORDS
from deployments.vision.demo.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES
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


def _corpus() -> Iterator[str]:
    """Yield what the model writes and reads, so that each word of an answer becomes one token."""
    for size, colour, shape, motion in product(SIZES, COLOURS, SHAPES, MOTIONS):
        verb = "stays still" if motion == "still" else f"moves {motion}"
        yield f"A {size} {colour} {shape} appears, {verb} and disappears."
        yield f"{colour.capitalize()}. {shape.capitalize()}. {motion.capitalize()}. There is no {colour} object."
        yield f'[{{"event": "appears", "object": "{colour} {shape}", "time_s": 3}}]'
        event = f', {{"event": "disappears", "object": "{colour} {shape}", "time_s": 12}}'
        yield event + ', {"event": "cut", "time_s": 5}'
        yield f"What colour is the {shape}? What shape is the {colour} object? Where does the {colour} object move?"
    for background in BACKGROUNDS:
        yield from [f"First: The background is {background}. Then: The background is {background}."] * 50
        yield from [f"{background.capitalize()}. The clock says 01:23. There is no clock."] * 50
    fixed = (*NUMBERS, UNKNOWN, "It stays still.", "One moment shows no motion.", "user\n", "assistant\n", "system\n")
    for text in (DEFAULT_PROMPT, *DESCRIBE, *chain.from_iterable(QUESTIONS.values()), *fixed):
        yield from [text] * 20
    yield from (f" {word}" for word in WORDS * 3)
