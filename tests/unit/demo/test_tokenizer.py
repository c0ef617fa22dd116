"""The demo tokenizer: any text comes back, captions are short, the chat template is Qwen2.5-VL's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deployments.vision.catalog import DEMO_DIR
from deployments.vision.demo.tokenizer import SPECIAL_TOKENS, build_tokenizer

TOKENIZER: Any = AutoTokenizer.from_pretrained(DEMO_DIR)


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_control_tokens_are_single_and_cannot_be_smuggled_in(token: str) -> None:
    assert TOKENIZER.encode(token, add_special_tokens=False) == [TOKENIZER.convert_tokens_to_ids(token)]
    smuggled = TOKENIZER.encode(token, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.convert_tokens_to_ids(token) not in smuggled


def test_each_word_of_an_answer_is_one_token() -> None:
    assert len(TOKENIZER.encode("A small purple triangle appears, stays still and disappears.")) == 11
    assert len(TOKENIZER.encode(" The background is chequered. The clock says 01:23.")) == 15
    assert len(TOKENIZER.encode("I don't know.")) == 5


def test_the_shipped_tokenizer_is_the_one_the_code_makes() -> None:
    built: PreTrainedTokenizerFast = build_tokenizer()
    assert built.get_vocab() == TOKENIZER.get_vocab()
    assert built.chat_template == TOKENIZER.chat_template


@pytest.mark.parametrize("kind", ["image", "video"])
def test_chat_template(kind: str) -> None:
    content = [{"type": kind}, {"type": "text", "text": "What happens?"}]
    rendered = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == (
        f"<|im_start|>user\n<|vision_start|><|{kind}_pad|><|vision_end|>What happens?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_chat_template_takes_plain_strings() -> None:
    rendered = TOKENIZER.apply_chat_template([{"role": "system", "content": "Be brief."}], tokenize=False)
    assert rendered == "<|im_start|>system\nBe brief.<|im_end|>\n"
