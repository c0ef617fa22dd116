"""The `vidray` command.

Exit codes: 0 done; 1 it failed; 2 the command or its input was wrong; 3 done, but some clips have no caption; 130
stopped by Ctrl-C. `vidray serve` is meant to be stopped so: 0 when it ended in order, 130 when it had to end at once.
"""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.vision.prompts import DEFAULT_PROMPT
from pipelines import command_line as options
from serve_app.analyze import AnalyzeRequest, analyze_video
from serve_app.cluster_app import drain_gateways, local_app
from serve_app.config import default_config_path, load_config
from serve_app.service_commands import add_to
from serve_app.terminal import TerminalWatcher, print_timeline

app = typer.Typer(
    name="vidray",
    help="Self-hosted video understanding on Ray: a video in, a captioned timeline out.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DRAIN_S = 20.0
"""How long `vidray serve` waits for requests in flight when it is stopped."""

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
    as_json: Annotated[bool, typer.Option("--json", help="print result.json instead of the timeline")] = False,
) -> None:
    """Describe a video clip by clip. The same command run again goes on where the last one stopped."""
    asked = options.analysis_options(context.params)
    target = out if out is not None else f"out/{Path(video).stem}"
    request = AnalyzeRequest(video, target, asked, config or default_config_path(), model, address)
    try:
        with TerminalWatcher() as watcher:
            result = analyze_video(request, watcher)
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; what is described so far is kept in {target}: run the same command to go on\n")
        raise typer.Exit(options.INTERRUPTED) from None
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    else:
        print_timeline(result, target)
    raise typer.Exit({"completed": options.DONE, "partial": options.PARTIAL}.get(result["status"], options.FAILED))


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Start a local Ray with the HTTP app and keep it running until Ctrl-C."""
    path = config or default_config_path()
    content, args = load_config(path)
    sys.stderr.write(f"starting Ray and the app of {path} (models: {', '.join(args.models)})\n")
    try:
        left = _serve_until_stopped(content)
    except (KeyboardInterrupt, SystemExit):  # the latter is what Ray makes of a SIGTERM while it starts
        sys.stderr.write("stopped at once: what was in flight is cut off, analyses go on at the next start\n")
        raise typer.Exit(options.INTERRUPTED) from None
    cut = f"; {left} requests in flight were cut off after {DRAIN_S:g} s" if left else ""
    sys.stderr.write(f"stopped{cut}\n")


def _serve_until_stopped(content: dict[str, Any]) -> int:
    """Return how many requests did not end in time; a second signal raises KeyboardInterrupt wherever it finds us."""
    stop = threading.Event()

    def stop_or_hurry(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with local_app(content, http=True) as running:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, stop_or_hurry)
        sys.stdout.write(f"API            {running.api_url}  (docs at {running.api_url}/docs)\n")
        sys.stdout.write(
            f"Ray dashboard  {running.dashboard_url}  (`ray get-auth-token` prints the token it asks for)\n"
        )
        sys.stdout.write(f"Ray            {running.ray_address}  (for `vidray analyze --address`)\n")
        sys.stdout.flush()
        stop.wait()
        sys.stderr.write("stopping: requests in flight end first; Ctrl-C again stops at once\n")
        return drain_gateways(DRAIN_S)


add_to(app)


def main() -> None:
    """Run the command; every expected failure is one line on standard error."""
    sys.exit(options.run_command(app))
