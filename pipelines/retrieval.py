"""Find the clips of a timeline that a question is about: by its words (BM25), its meaning, the times that it names.

BM25 is that of Lucene, by the library bm25s, over stemmed words and pairs of them, without those that say nothing. The
words of earlier turns count, too, each half as much as the next one's, so that "and what colour was it?" is about the
same thing.

Meaning needs vectors of captions and question. Then the ranks by words and by nearness count together: reciprocal rank
fusion (Cormack, Clarke, Büttcher 2009, k = 60), which needs no common scale.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from pipelines.moments import Range, moments, without_times

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it has each index that it builds told to everyone

Floats = npt.NDArray[np.float32]

MOST = 12
_FADE = 0.5
"""What a turn's words weigh beside those of the next one."""
_NEAR = 0.5
"""Clips that score less than this share of the best one's are not what was asked for."""
_NEAREST = 5
"""Clips that are candidates by their meaning alone."""
_FUSION_K = 60
_OF_ALL = frozenset((
    "about", "all", "anything", "briefly", "can", "could", "describe", "did", "do", "does", "entire",
    "everything", "film", "footage", "general", "gist", "give", "go", "goes", "going", "happen", "happened",
    "happening", "happens", "have", "how", "i", "in", "main", "me", "movie", "of", "occur",
    "occurs", "on", "overall", "overview", "please", "recap", "see", "seen",
    "show", "shown", "shows", "story", "summarise", "summarize", "summary", "take", "takes", "tell",
    "us", "video", "videos", "clip", "clips", "what", "whats", "which", "whole", "you", "your",
))  # fmt: skip
"""Words that ask for the whole of a video, not for anything in it."""
_OF_NO_PART = _OF_ALL | frozenset(STOPWORDS_EN)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one described clip: its caption, and its events as lines."""

    clip: int
    start_s: float
    end_s: float
    text: str
    events: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return " ".join((self.text, *self.events))


@dataclass(frozen=True, slots=True)
class Found:
    """A clip that may hold the answer: by the words of the last question, by a time that it names, by its meaning."""

    entry: Entry
    score: float
    by_words: bool
    by_time: bool


def asks_for_all(questions: Sequence[str]) -> bool:
    """Say whether the questions have no word that could be about a part of the video: "What happens in this video?"."""
    words = {word for question in questions for word in _WORD.findall(without_times(question).lower())}
    return bool(words & _OF_ALL) and words <= _OF_NO_PART


class Retriever:
    """An index over the described clips of one video that is `duration_s` long. Building is linear in their words.

    `vectors` holds those of captions by clip, each (D,) of length 1; clips without one are found by words alone.
    """

    def __init__(
        self, entries: Sequence[Entry], duration_s: float, vectors: Mapping[int, npt.NDArray[np.float16]] | None = None
    ) -> None:
        self._entries = sorted(entries, key=lambda entry: (entry.start_s, entry.end_s, entry.clip))
        self._vectors = _matrix(self._entries, vectors or {})
        self._duration_s = duration_s
        self._starts_s = np.array([entry.start_s for entry in self._entries])
        self._ends_s = np.array([entry.end_s for entry in self._entries])
        tokens = _tokens([entry.words for entry in self._entries])
        self._index: bm25s.BM25 | None = None
        if any(tokens):
            self._index = bm25s.BM25(method="lucene")
            self._index.index(tokens, show_progress=False)
            self._vocabulary = set(self._index.vocab_dict)

    def find(self, questions: Sequence[str], most: int = MOST, vector: Floats | None = None) -> list[Found]:
        """Return the clips that the last of the user's questions is about, best first; the earlier ones give context.

        A question that names times is about the clips there, those that its words fit first. Without any word of the
        timeline's and without a time there is nothing to return, but for what is near the question's `vector` (D,).
        """
        if not self._entries:
            return []
        asked = self._scores(questions[-1:])
        words = asked + _FADE * self._scores(questions[:-1]) if len(questions) > 1 else asked
        scores, candidates = words, (words > 0) & (words >= _NEAR * words.max())
        if vector is not None:
            near = self._near(vector)
            nearest = np.argsort(-near, kind="stable")[:_NEAREST]
            candidates[nearest[near[nearest] > 0]] = True
            # Also where no caption has a vector: the scores of several videos are sorted together.
            scores = _fused(words, near)
        inside = self._inside(moments(questions[-1], self._duration_s))
        by_time = bool(inside.any())
        chosen = np.flatnonzero(inside if by_time else candidates)
        # Of equals the earlier one.
        order = chosen[np.lexsort((self._starts_s[chosen], -scores[chosen]))][:most]
        return [Found(self._entries[at], float(scores[at]), bool(asked[at] > 0), by_time) for at in order]

    def first(self, most: int = MOST) -> list[Found]:
        """Return the first clips, for a question that is about none more than about another."""
        return [Found(entry, 0.0, by_words=False, by_time=False) for entry in self._entries[:most]]

    def _scores(self, questions: Sequence[str]) -> Floats:
        scores = np.zeros(len(self._entries), np.float32)
        if self._index is None:
            return scores
        weight = 1.0
        for tokens in reversed(_tokens(questions)):
            if known := [token for token in tokens if token in self._vocabulary]:
                # By word, so that a short question is not drowned by the long one before it.
                scores += weight / len(tokens) * self._index.get_scores(known)
            weight *= _FADE
        return scores

    def _near(self, vector: Floats) -> Floats:
        """Return how near each clip is to the vector, 0 where its own is missing or another model's."""
        if self._vectors is None or self._vectors.shape[1:] != vector.shape:
            return np.zeros(len(self._entries), np.float32)
        return self._vectors @ vector.astype(np.float32)

    def _inside(self, ranges: Sequence[Range]) -> npt.NDArray[np.bool_]:
        inside = np.zeros(len(self._entries), bool)
        for start_s, end_s in ranges:
            # Clips are half-open, and so is a range, but a point has no length.
            ends = self._starts_s < end_s if end_s > start_s else self._starts_s <= start_s
            inside |= ends & (self._ends_s > start_s)
        return inside


def _matrix(entries: Sequence[Entry], vectors: Mapping[int, npt.NDArray[np.float16]]) -> Floats | None:
    """Return the vectors by place, float32 (entries, D), zeros where there is none; None without any.

    The last one says how many numbers they have; others are of a model that was changed behind its name.
    """
    if not vectors:
        return None
    nothing = np.zeros_like(list(vectors.values())[-1])
    rows = [vectors.get(entry.clip, nothing) for entry in entries]
    return np.stack([row if row.shape == nothing.shape else nothing for row in rows]).astype(np.float32)


def _fused(words: Floats, near: Floats) -> Floats:
    """Return each clip's score by its ranks: by words, where it has any in common, and by nearness."""
    fused = np.zeros(len(words), np.float32)
    for scores, counts in ((words, words > 0), (near, near > 0)):
        order = np.argsort(-scores, kind="stable")
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        fused += np.where(counts, 1.0 / (_FUSION_K + ranks), 0.0).astype(np.float32)
    return fused


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    stemmer: Any = Stemmer.Stemmer("english")  # not shared: a stemmer is not for several threads at once
    tokens: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
    )
    # Neighbours together count beside the words: "red circle" is no blue circle beside a red star.
    return [words + [f"{first} {second}" for first, second in pairwise(words)] for words in tokens]
