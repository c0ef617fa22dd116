"""What the commands that analyse videos share: their options, and one line for every expected failure."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer import TyperException

from deployments.contracts import GenerationOptions
from deployments.errors import AppError, FrameTooLarge, InvalidInput, InvalidOption, OutputConflict, UnreadableVideo
from deployments.validation import parse
from deployments.vision.prompts import MOST_PROMPT_CHARS
from pipelines.events import AskedEvents
from pipelines.options import AnalysisOptions
from pipelines.plan import SamplingOptions

DONE, FAILED, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: done; it failed; the command or its input was wrong; done, but not every clip has a caption; Ctrl-C."""

_ENDED = {"completed": DONE, "partial": PARTIAL}


def code_of(status: str) -> int:
    """Return the exit code for how an analysis ended."""
    return _ENDED.get(status, FAILED)


Seed = Annotated[int, typer.Option(help="which of the possible variations; the same seed gives the same caption")]
Prompt = Annotated[str, typer.Option(help="what to ask about each clip")]
Per = Annotated[str, typer.Option(help="one caption per `clip` or per sampled `frame`")]
ClipDuration = Annotated[float, typer.Option(help="seconds per clip")]
ClipOverlap = Annotated[float, typer.Option(help="seconds that neighbouring clips share")]
Fps = Annotated[float | None, typer.Option(help="frames to sample per second [default: 1]")]
FramesPerClip = Annotated[int | None, typer.Option(help="frames to sample per clip, instead of --fps")]
Start = Annotated[float, typer.Option(help="begin here, in seconds")]
End = Annotated[float | None, typer.Option(help="end here, in seconds [default: the video's end]")]
MaxTokens = Annotated[int, typer.Option(help="longest caption, in tokens")]
Temperature = Annotated[float, typer.Option(help="0 writes the likeliest caption; more varies it")]
Event = Annotated[
    list[str] | None, typer.Option("--event", help="a kind of event to list with its times; may be given several times")
]
Decoder = Annotated[str, typer.Option(help="`pyav` or `decord`")]


def analysis_options(given: Mapping[str, Any]) -> AnalysisOptions:
    """Return the checked options out of a command's parameters, which bear the options' own names.

    Raises InvalidOption.
    """
    decoder, prompt = given["decoder"], given["prompt"]
    if decoder not in ("pyav", "decord"):
        raise InvalidOption(f"decoder must be pyav or decord, got {decoder!r}")
    if not prompt.strip():
        raise InvalidOption(f"prompt must say something, got {prompt!r}")
    if len(prompt) > MOST_PROMPT_CHARS:
        raise InvalidOption(f"prompt must have at most {MOST_PROMPT_CHARS} characters, got {len(prompt)}")
    sampling = {name: given[name] for name in SamplingOptions.model_fields}
    generation = {name: given[name] for name in GenerationOptions.model_fields if name in given}
    return AnalysisOptions(
        sampling=parse(SamplingOptions, sampling, error=InvalidOption),
        prompt=prompt,
        generation=parse(GenerationOptions, generation, error=InvalidOption),
        decoder=decoder,
        event_kinds=parse(AskedEvents, {"events": given["event"] or ()}, error=InvalidOption).events,
    )


def run_command(app: typer.Typer) -> int:
    """Run the command with the process's arguments and return its exit code."""
    try:
        return int(app(standalone_mode=False) or DONE)
    except TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    except AppError as error:
        return _fail(error.message, USAGE if _is_usage(error) else FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", INTERRUPTED)


def _is_usage(error: AppError) -> bool:
    # A file that is there but holds no readable video is a failure of the job, not of the command line.
    about_content = isinstance(error, UnreadableVideo | FrameTooLarge)
    return isinstance(error, InvalidInput | OutputConflict) and not about_content


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
