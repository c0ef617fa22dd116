"""Questions about a moment that captions do not answer: the frames are looked at again, on the premises."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from obstore.store import ObjectStore

from deployments.chat.extractive import NAME, Extractive
from deployments.chat.settings import ChatSettings, SecondLookSettings
from deployments.contracts import Caption, DescribeRequest
from deployments.errors import NotFound, ReplicaLost, SourceNotFound, UnknownModel
from pipelines.store import open_store
from serve_app.analyses.second_look import SecondLook
from serve_app.principal import LOCAL, Principal
from tests.app.analysis_house import MODEL, House, Play
from tests.app.fakes import FakeServices
from tests.app.made_up import Analysis, clip_data
from tests.app.test_chat import ask, content, http, one, services, store

pytestmark = pytest.mark.timeout(60)
__all__ = ["http", "one", "services", "store"]  # fixtures
CLOCK = "What does the clock say at 0:12?"


class Looker:
    """Sees `seen` in every clip, fails with `error`, or takes for ever."""

    def __init__(self, seen: str = "09:41", error: Exception | None = None, *, silent: bool = False) -> None:
        self.seen = seen
        self.error = error
        self.silent = silent
        self.asked: list[tuple[str, str, list[int], str]] = []

    async def look(self, principal: Principal, analysis_id: str, clips: Sequence[int], question: str) -> dict[int, str]:
        self.asked.append((principal.owner, analysis_id, list(clips), question))
        if self.silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return dict.fromkeys(clips, self.seen)


def look_by(services: FakeServices, looker: Looker, **settings: Any) -> None:
    services.talk_by({NAME: Extractive()}, ChatSettings(second_look=SecondLookSettings(**settings)), looker.look)


def test_a_question_about_a_moment_that_no_caption_answers_is_put_to_the_frames(
    services: FakeServices, http: TestClient, one: str
) -> None:
    looker = Looker()
    look_by(services, looker)
    completion = ask(http, CLOCK, analysis_id=one)
    assert looker.asked == [(LOCAL.owner, one, [1], "What does the clock say?")]
    lines = content(completion).splitlines()
    assert lines[:2] == ["[0:10-0:20] (looked at again) 09:41", "[0:10-0:20] A blue circle stays still."]
    clip = {"analysis_id": one, "clip": 1, "start_s": 10.0, "end_s": 20.0}
    assert completion["looked_again"] == [clip]
    assert completion["citations"] == [clip]
    [kept] = http.get(f"/v1/analyses/{one}/chats").json()["data"]
    assert kept["looked_again"] == [clip]


@pytest.mark.parametrize("question", ["Where is the circle at 0:12?", "Where is the circle?", "Is there an elephant?"])
def test_what_captions_hold_and_what_names_no_moment_is_not_looked_for(
    services: FakeServices, http: TestClient, one: str, question: str
) -> None:
    looker = Looker()
    look_by(services, looker)
    assert ask(http, question, analysis_id=one)["looked_again"] == []
    assert looker.asked == []


def test_a_long_moment_is_looked_at_from_its_start_and_not_for_ever(
    services: FakeServices, http: TestClient, one: str
) -> None:
    looker = Looker()
    look_by(services, looker, clips=2)
    ask(http, "What does the clock say in the first minute?", analysis_id=one)
    assert [clips for _, _, clips, _ in looker.asked] == [[0, 1]]


async def another(store: ObjectStore) -> str:
    analysis = Analysis(store, 3, owner=LOCAL.owner)
    await analysis.submit()
    await analysis.begin()
    await analysis.append(("clip", clip_data(1, text="A yellow bird sings.")))
    return analysis.id


def test_several_videos_are_each_asked_for_their_own(
    services: FakeServices, http: TestClient, store: ObjectStore, one: str
) -> None:
    looker, other = Looker(), asyncio.run(another(store))
    look_by(services, looker)
    completion = ask(http, CLOCK, analysis_id=[one, other])
    assert sorted((asked[1], asked[2]) for asked in looker.asked) == sorted([(one, [1]), (other, [1])])
    assert "[A 0:10-0:20] [B 0:10-0:20] (looked at again) 09:41" in content(completion)


@pytest.mark.parametrize("looker", [Looker(error=ReplicaLost("gone")), Looker(silent=True)])
def test_without_a_second_look_the_captions_answer_and_it_is_said(
    services: FakeServices, http: TestClient, one: str, looker: Looker
) -> None:
    look_by(services, looker, deadline_s=0.1)
    completion = ask(http, CLOCK, analysis_id=one)
    assert content(completion).startswith("[0:10-0:20] A blue circle stays still.")
    assert content(completion).endswith("Not all frames could be looked at again.")
    assert completion["looked_again"] == []


class Half(Looker):
    """Cannot look at the video of the analysis `gone`."""

    gone: str

    async def look(self, principal: Principal, analysis_id: str, clips: Sequence[int], question: str) -> dict[int, str]:
        if analysis_id == self.gone:
            raise SourceNotFound("no video any more")
        return await super().look(principal, analysis_id, clips, question)


def test_one_video_that_cannot_be_looked_at_takes_nothing_from_the_other(
    services: FakeServices, http: TestClient, store: ObjectStore, one: str
) -> None:
    looker = Half()
    looker.gone = asyncio.run(another(store))
    look_by(services, looker)
    completion = ask(http, CLOCK, analysis_id=[one, looker.gone])
    assert "[A 0:10-0:20] (looked at again) 09:41" in content(completion)
    assert content(completion).endswith("Not all frames could be looked at again.")


def test_it_can_be_switched_off(services: FakeServices, http: TestClient, one: str) -> None:
    looker = Looker()
    services.talk_by({NAME: Extractive()}, ChatSettings(second_look=None), looker.look)
    assert ask(http, CLOCK, analysis_id=one)["looked_again"] == []
    assert looker.asked == []


class Seer:
    """Answers with the question and the time of the first frame; clips at `blind` seconds have no answer."""

    def __init__(self, blind: float | None = None) -> None:
        self.blind = blind

    async def describe(self, request: DescribeRequest) -> Caption:
        at_s = float(request.frames.pts_s[0])
        return Caption("" if at_s == self.blind else f"{request.prompt} {at_s:g}", 1, 1, "stop")


@pytest.mark.usefixtures("decoded_in_no_time")
def test_the_clips_that_were_described_are_the_ones_that_are_looked_at(play: Play) -> None:
    async def scenario(house: House) -> None:
        look = SecondLook(house.store, {"sim": (MODEL, Seer(blind=30.0))}, 1.0).look
        one = (await house.submit()).request.id
        assert await look("ann", one, [4, 1, 1, 3], "Who?") == {1: "Who? 10", 4: "Who? 40"}
        with pytest.raises(NotFound):
            await look("bob", one, [1], "Who?")
        with pytest.raises(UnknownModel):
            await SecondLook(house.store, {}, 1.0).look("ann", one, [1], "Who?")

    play(scenario)


def test_a_video_that_is_gone_cannot_be_looked_at(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(open_store(str(tmp_path)))
        one = (await house.submit()).request.id
        [video] = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"video"]
        video.unlink()
        with pytest.raises(SourceNotFound):
            await SecondLook(house.store, {"sim": (MODEL, Seer())}, 1.0).look("ann", one, [1], "Who?")

    asyncio.run(scenario())
