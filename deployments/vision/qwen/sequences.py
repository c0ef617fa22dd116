"""What is under way on a loaded Qwen2.5-VL: sequences that begin, grow by a token a step, and leave on their own."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from deployments.contracts import Caption, FinishReason
from deployments.vision.qwen.choose import Chooser
from deployments.vision.qwen.decode import LayerCode, next_scores
from deployments.vision.qwen.encode import Asked, Prompt
from deployments.vision.qwen.prefill import alike, read
from deployments.vision.qwen.rows import CacheRows


class _Sequence:
    """A prompt of a request and what has been written to it so far."""

    def __init__(self, asked: Asked, prompt: Prompt) -> None:
        self.asked = asked
        self.prompt = prompt
        self.chooser = Chooser(prompt.options)
        self.written: list[int] = []

    @property
    def columns(self) -> int:
        """Of its row that are in use: the last token written has no keys yet."""
        return len(self.prompt.ids) + len(self.written) - 1


class Sequences:
    """Row n of the cache is the nth sequence's. Runs on the device of the model; raises what that raises."""

    def __init__(
        self, model: Any, tokenizer: Any, dtype: torch.dtype, *, stop_ids: frozenset[int], layer_code: LayerCode
    ) -> None:
        self._model, self._tokenizer, self._dtype = model, tokenizer, dtype
        self._stop_ids, self._layer_code = stop_ids, layer_code
        text = model.config.text_config
        self.rows = CacheRows(
            text.num_hidden_layers,
            text.num_key_value_heads,
            text.hidden_size // text.num_attention_heads,
            device=model.device,
            dtype=dtype,
        )
        self._under_way: list[_Sequence] = []
        self.answers: dict[Asked, dict[Prompt, Caption]] = {}
        """What has been written to requests that wait for their other answers."""

    def begin(self, new: Sequence[Asked], *, at_once: int) -> None:
        """Read the prompts of these, some `at_once` tokens in a pass, and write the first token of each answer.

        Room is made for all that they may come to write. Where it raises, none of them has begun.
        """
        prompts = [one.prompt for one in self._under_way] + [prompt for asked in new for prompt in asked.prompts]
        self.rows.make_room(len(prompts), max(prompt.most_tokens for prompt in prompts))
        try:
            for group in alike([asked.prompts[0] for asked in new], at_once=at_once):
                self._begin([new[place] for place in group])
        except BaseException:
            self.drop(new)
            raise

    def write(self) -> None:
        """Write one token of each."""
        scores = next_scores(
            self._model,
            self._on_device([[one.written[-1]] for one in self._under_way]),
            self._on_device([one.columns for one in self._under_way]),
            self._on_device([[one.prompt.next_position + len(one.written) - 1] for one in self._under_way]),
            self.rows,
            columns=max(one.columns for one in self._under_way) + 1,
            layer_code=self._layer_code,
        )
        self._append(self._under_way, scores)

    def take_whole(self) -> list[tuple[Asked, Caption]]:
        """Take out the requests that have an answer to each of their questions."""
        whole = [asked for asked, answers in self.answers.items() if len(answers) == len(asked.prompts)]
        ended: list[tuple[Asked, Caption]] = []
        for asked in whole:
            answers = self.answers.pop(asked)
            first, *others = (answers[prompt] for prompt in asked.prompts)
            ended.append((asked, replace(first, also=tuple(others))))
        return ended

    def drop(self, leaving: Collection[Asked]) -> None:
        """Forget these, begun or not."""
        gone = set(leaving)
        for asked in gone:
            self.answers.pop(asked, None)
        self._leave([at for at, one in enumerate(self._under_way) if one.asked in gone])

    def _begin(self, group: Sequence[Asked]) -> None:
        """Read the first prompt of each with its frames, then what their other prompts do not share with it."""
        first_row = self.rows.rows
        scores, cache = read(self._model, group, self._dtype)
        self.rows.add(cache, [len(asked.prompts[0].ids) for asked in group])
        begun = [_Sequence(asked, asked.prompts[0]) for asked in group]
        others = [(row, asked, prompt) for row, asked in enumerate(group, first_row) for prompt in asked.prompts[1:]]
        own_tokens = {len(prompt.ids) - asked.shared for _, asked, prompt in others}
        all_scores = [scores]
        for length in sorted(own_tokens):
            some = [other for other in others if len(other[2].ids) - other[1].shared == length]
            all_scores.append(self._read_on(some))
            begun += [_Sequence(asked, prompt) for _, asked, prompt in some]
        self._under_way += begun
        self._append(begun, torch.cat(all_scores))

    def _read_on(self, others: Sequence[tuple[int, Asked, Prompt]]) -> torch.Tensor:
        """Begin new rows with what these share with the named ones, and read the rest, which is of one length."""
        shared = [asked.shared for _, asked, _ in others]
        first_row = self.rows.fork([row for row, _, _ in others], max(shared))
        return next_scores(
            self._model,
            self._on_device([prompt.ids[asked.shared :].tolist() for _, asked, prompt in others]),
            self._on_device(shared),
            self._on_device([prompt.positions[0, asked.shared :].tolist() for _, asked, prompt in others]),
            self.rows,
            first_row=first_row,
            columns=max(len(prompt.ids) for _, _, prompt in others),
            layer_code=self._layer_code,
        )

    def _on_device(self, numbers: list[Any]) -> torch.Tensor:
        return torch.tensor(numbers, device=self._model.device)

    def _append(self, sequences: Sequence[_Sequence], scores: torch.Tensor) -> None:
        """Let each sequence choose its next token by its row of `scores`; those that end leave."""
        best = scores.argmax(dim=-1).tolist()
        for row, sequence in enumerate(sequences):
            chooser = sequence.chooser
            sequence.written.append(best[row] if chooser.greedy else chooser.choose(scores[row]))
        over = {id(one) for one in sequences if self._is_over(one)}
        for one in self._leave([at for at, one in enumerate(self._under_way) if id(one) in over]):
            self.answers.setdefault(one.asked, {})[one.prompt] = self._caption(one)

    def _is_over(self, sequence: _Sequence) -> bool:
        return sequence.written[-1] in self._stop_ids or len(sequence.written) >= sequence.prompt.options.max_tokens

    def _leave(self, places: Sequence[int]) -> list[_Sequence]:
        """Take the sequences at these places out, the last ones moving up into their rows."""
        left = [self._under_way[place] for place in places]
        for place in sorted(places, reverse=True):
            last = self._under_way.pop()
            if place < len(self._under_way):
                self._under_way[place] = last
                self.rows.move(len(self._under_way), place)
        self.rows.rows = len(self._under_way)
        return left

    def _caption(self, sequence: _Sequence) -> Caption:
        stopped = sequence.written[-1] in self._stop_ids
        reason: FinishReason = "stop" if stopped else "length"
        written = sequence.written[:-1] if stopped else sequence.written
        text = self._tokenizer.decode(written, skip_special_tokens=True).strip()
        return Caption(
            text=text, prompt_tokens=len(sequence.prompt.ids), output_tokens=len(written), finish_reason=reason
        )
