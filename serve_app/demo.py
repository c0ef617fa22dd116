"""`make demo`: draw a sample video, describe it with the demo model on a local Ray, and show the truth beside it."""

import shutil
import sys
from pathlib import Path

import typer

from deployments.errors import OutputConflict
from deployments.vision.demo.sample import write_sample
from pipelines import command_line as options
from pipelines.exports import clock
from pipelines.options import AnalysisOptions
from serve_app.analyze import AnalyzeRequest, analyze_video
from serve_app.config import default_config_path
from serve_app.terminal import TerminalWatcher, print_timeline

OUT = Path("out/demo")

command = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@command.command()
def demo() -> None:
    """Run the demonstration; its files end up in out/demo."""
    sys.stderr.write("Vidray demo: draws a sample video, then describes it on this machine; no GPU, key or download\n")
    # A demonstration that found its own old results would show nothing; results that are not its own stay.
    if OUT.exists() and not (OUT / "truth.json").exists():
        raise OutputConflict(f"expected no {OUT} or an earlier demo's, got other results: move them away first")
    shutil.rmtree(OUT, ignore_errors=True)
    with TerminalWatcher() as watcher:
        watcher.stage("drawing the sample")
        truths = write_sample(OUT / "sample.mp4")
    request = AnalyzeRequest(
        video=str(OUT / "sample.mp4"),
        out=str(OUT),
        options=AnalysisOptions(),
        config_path=default_config_path(),
        model="demo",
    )
    with TerminalWatcher() as watcher:
        result = analyze_video(request, watcher)
    print_timeline(result, str(OUT))
    sys.stdout.write("\nwhat was drawn:\n")
    for clip, truth in zip(result["clips"], truths, strict=True):
        mark = "same" if clip.get("text") == truth else "differs"
        sys.stdout.write(f"  {clock(clip['start_s'])} – {clock(clip['end_s'])}  {truth}  ({mark})\n")
    if result["status"] != "completed":
        raise typer.Exit(options.FAILED)


if __name__ == "__main__":
    sys.exit(options.run_command(command))
