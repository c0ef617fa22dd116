"""The `vidray` command.

Exit codes: 0 done; 1 it failed; 2 the command or its input was wrong; 3 done, but some clips have no caption; 130
stopped by Ctrl-C. `vidray serve` is meant to be stopped so: 0 when it ended in order, 130 when it had to end at once.

Ray is imported by the commands that need it, when they need it: that takes seconds, and what is wrong is told before.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.errors import InvalidOption
from deployments.vision.prompts import DEFAULT_PROMPT
from pipelines import command_line as options
from pipelines.options import AnalysisOptions
from serve_app import service_commands
from serve_app.doctor import doctor
from serve_app.jobs import submit
from serve_app.remote_analysis import RESULT, TIMELINE, RemoteRequest, analyze_remotely
from serve_app.terminal import TerminalWatcher, print_timeline, write_out

app = typer.Typer(
    name="vidray",
    help="Self-hosted video understanding on Ray: a video in, a captioned timeline out.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong command or input, 3 done but for some clips, 130 stopped by Ctrl-C.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Serve config file [default: ./serve_config.yaml]")]


@app.command()
def analyze(
    context: typer.Context,
    video: Annotated[str, typer.Argument(help="the video file", show_default=False)],
    out: Annotated[
        str | None, typer.Option(help="directory or URL for the results [default: out/VIDEO's name]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="one of the config's models [default: its default_model]")] = None,
    prompt: options.Prompt = DEFAULT_PROMPT,
    event: options.Event = None,
    per: options.Per = "clip",
    clip_duration_s: options.ClipDuration = 10.0,
    clip_overlap_s: options.ClipOverlap = 0.0,
    fps: options.Fps = None,
    frames_per_clip: options.FramesPerClip = None,
    start_s: options.Start = 0.0,
    end_s: options.End = None,
    max_tokens: options.MaxTokens = 128,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    decoder: options.Decoder = "pyav",
    config: ConfigOption = None,
    address: Annotated[
        str | None, typer.Option(help="a running Ray cluster [default: a local one, started here]")
    ] = None,
    server: Annotated[str | None, typer.Option(help="a running service to send the video to, over HTTP")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print result.json instead of the timeline")] = False,
) -> None:
    """Describe a video clip by clip. The same command run again goes on where the last one stopped."""
    asked = options.analysis_options(context.params)
    target = out if out is not None else f"out/{Path(video).stem}"
    if server is not None and (address is not None or config is not None):
        raise InvalidOption("expected --server alone, got --address or --config, which are of this machine's own Ray")
    if server is not None and "://" in target:
        raise InvalidOption(f"expected a directory for --out beside --server, got {target!r}")
    if server is not None:
        result = analyze_remotely(RemoteRequest(server, Path(video), Path(target), asked, model))
    else:
        result = _analyze_here(video, target, asked, model, config, address)
    if as_json:
        write_out(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    elif server is not None:
        print_timeline(result, target, (RESULT, TIMELINE))
    else:
        print_timeline(result, target)
    raise typer.Exit(options.code_of(result["status"]))


def _analyze_here(
    video: str,
    target: str,
    asked: AnalysisOptions,
    model: str | None,
    config: Path | None,
    address: str | None,
) -> dict[str, Any]:
    try:
        with TerminalWatcher() as watcher:
            from serve_app.analyze import AnalyzeRequest, analyze_video
            from serve_app.config import default_config_path

            request = AnalyzeRequest(video, target, asked, config or default_config_path(), model, address)
            return analyze_video(request, watcher)
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; what is described so far is kept in {target}: run the same command to go on\n")
        raise typer.Exit(options.INTERRUPTED) from None


@app.command()
def serve(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the addresses as JSON once it answers")] = False,
) -> None:
    """Start a local Ray with the HTTP app and keep it running until Ctrl-C."""
    from serve_app.serving import DRAIN_S, serve_until_stopped

    try:
        left = serve_until_stopped(config, as_json=as_json)
    except (KeyboardInterrupt, SystemExit):  # the latter is what Ray makes of a SIGTERM while it starts
        sys.stderr.write("stopped at once: what was in flight is cut off, analyses go on at the next start\n")
        raise typer.Exit(options.INTERRUPTED) from None
    cut = f"; {left} requests in flight were cut off after {DRAIN_S:g} s" if left else ""
    sys.stderr.write(f"stopped{cut}\n")


app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)
service_commands.add_to(app)
app.command()(doctor)


def main() -> None:
    """Run the command; every expected failure is one line on standard error."""
    sys.exit(options.run_command(app))
