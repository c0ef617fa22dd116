"""The commands that speak to a running service: what it has, how far it is, what came of it, and questions about it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from pipelines import command_line as options
from pipelines.exports import clock
from serve_app.local_file import write_whole
from serve_app.service_client import ServiceClient, analysis_path, service_at
from serve_app.terminal import plain, print_timeline, write_out
from serve_app.watching import watched

ServerOption = Annotated[
    str, typer.Option("--server", envvar="VIDRAY_SERVER", help="address of the service", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the service's own answer")]
AnalysisArgument = Annotated[str, typer.Argument(help="the analysis's id", show_default=False)]
LOCAL_SERVICE = "http://127.0.0.1:8000"


def models(server: ServerOption = LOCAL_SERVICE, as_json: JsonOption = False) -> None:
    """List the models of a service and their state."""
    with service_at(server) as service:
        answer = service.models()
    if as_json:
        _print_json(answer)
        return
    table = _table("model", "kind", "state", "")
    for model in answer["data"]:
        loading = model.get("load_progress")
        state = model["state"] if loading is None else f"{model['state']} {loading:.0%}"
        table.add_row(*map(plain, (model["id"], model["kind"], state, _note(model))))
    _print(table)


def status(
    analysis: Annotated[
        str | None, typer.Argument(help="the analysis's id [default: the service]", show_default=False)
    ] = None,
    server: ServerOption = LOCAL_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Show how a service stands, or one analysis."""
    with service_at(server) as service:
        if analysis is None:
            _show_service(service, as_json)
        else:
            _show_analysis(service.get(analysis_path(analysis)), as_json)


def watch(analysis: AnalysisArgument, server: ServerOption = LOCAL_SERVICE, as_json: JsonOption = False) -> None:
    """Show captions as they come, then the timeline."""
    with service_at(server) as service:
        result = watched(service, analysis, again=f"`vidray watch {analysis} --server {server}` comes back to it")
    if as_json:
        _print_json(result)
    else:
        print_timeline(result)
    raise typer.Exit(options.code_of(result["status"]))


def export(
    analysis: AnalysisArgument,
    form: Annotated[Literal["json", "vtt", "srt", "csv", "md"], typer.Option("--format", help="what to write")] = "md",
    out: Annotated[Path | None, typer.Option(help="the file to write [default: standard output]")] = None,
    server: ServerOption = LOCAL_SERVICE,
    as_json: Annotated[bool, typer.Option("--json", help="the same as --format json")] = False,
) -> None:
    """Write a result as JSON, subtitles, a table or a page."""
    with service_at(server) as service:
        text = service.text(f"{analysis_path(analysis)}/result", format="json" if as_json else form)
    if out is None:
        write_out(text)
        return
    write_whole(out, text)


def chat(
    analysis: AnalysisArgument,
    question: Annotated[str, typer.Argument(help="what to ask about the video", show_default=False)],
    model: Annotated[str | None, typer.Option(help="one of the service's chat models [default: its default]")] = None,
    server: ServerOption = LOCAL_SERVICE,
    as_json: JsonOption = False,
) -> None:
    """Ask about an analysed video. The answer names the clips that it rests on."""
    body: dict[str, Any] = {"analysis_id": analysis, "messages": [{"role": "user", "content": question}]}
    if model is not None:
        body["model"] = model
    with service_at(server) as service:
        if as_json:
            _print_json(service.post("/v1/chat/completions", body))
            return
        last: dict[str, Any] = {}
        for chunk in service.chunks("/v1/chat/completions", body):
            for choice in chunk["choices"]:
                sys.stdout.write(plain(choice["delta"].get("content") or ""))
            sys.stdout.flush()
            last = chunk
    sys.stdout.write("\n")
    if cited := last.get("citations"):
        places = (f"{clock(one['start_s'])} – {clock(one['end_s'])}" for one in cited)
        sys.stderr.write(f"sources: {', '.join(places)}\n")
    if unsupported := last.get("unsupported_citations"):
        sys.stderr.write(f"not in the video: {plain(', '.join(unsupported))}\n")


def cancel(analysis: AnalysisArgument, server: ServerOption = LOCAL_SERVICE, as_json: JsonOption = False) -> None:
    """End an analysis. What is described so far stays, and `retry` has the rest described."""
    _told_to(analysis, "cancel", server, as_json)


def retry(analysis: AnalysisArgument, server: ServerOption = LOCAL_SERVICE, as_json: JsonOption = False) -> None:
    """Have the failed clips of an analysis described after all."""
    _told_to(analysis, "retry", server, as_json)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for command in (models, status, watch, cancel, retry, export, chat):
        app.command()(command)


def _told_to(analysis: str, act: str, server: str, as_json: bool) -> None:
    with service_at(server) as service:
        service.post(f"{analysis_path(analysis)}/{act}")
        _show_analysis(service.get(analysis_path(analysis)), as_json)


def _show_service(service: ServiceClient, as_json: bool) -> None:
    stats = service.get("/v1/stats")
    latest = service.get("/v1/analyses", limit=10)
    if as_json:
        _print_json({"stats": stats, "analyses": latest})
        return
    analyses, clips = stats["analyses"], stats["clips"]
    sys.stdout.write(
        f"Vidray {plain(stats['version'])}: {analyses['running']} running, {analyses['queued']} queued; "
        f"{clips['described_per_s']:.1f} clips/s; {_room(stats['storage'])}\n"
    )
    for alert in stats["alerts"]:
        sys.stdout.write(f"{alert['severity']}: {plain(alert['message'])}\n")
    if latest["data"]:
        table = _table("analysis", "state", "done", "ETA", "video")
        for one in latest["data"]:
            progress = one["progress"]
            eta = "" if not progress["eta_s"] else clock(progress["eta_s"])
            table.add_row(one["id"], one["state"], f"{progress['fraction']:.0%}", eta, plain(one["filename"]))
        _print(table)


def _show_analysis(analysis: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(analysis)
        return
    progress = analysis["progress"]
    total = "?" if progress["clips_total"] is None else progress["clips_total"]
    failed = f", {progress['clips_failed']} failed" if progress["clips_failed"] else ""
    eta = f", ETA {clock(progress['eta_s'])}" if progress["eta_s"] else ""
    sys.stdout.write(
        f"{analysis['id']}  {plain(analysis['filename'])}\n"
        f"{analysis['state']}: {progress['clips_done']} of {total} clips{failed}{eta}\n"
        f"{plain(analysis['model'])}: {plain(str(analysis['options'].get('prompt', '')))}\n"
    )


def _room(storage: dict[str, Any]) -> str:
    if not storage["admitting"]:
        return "storage full"
    free = storage["free_bytes"]
    return str(storage["kind"]) if free is None else f"{free / 2**30:.1f} GiB free"


def _note(model: dict[str, Any]) -> str:
    return str(model.get("error") or model.get("notice") or model.get("choice") or "")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    Console(markup=False, highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)


def _print_json(answer: dict[str, Any]) -> None:
    write_out(json.dumps(answer, ensure_ascii=False, indent=1) + "\n")
