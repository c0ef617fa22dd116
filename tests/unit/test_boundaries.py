"""Who may import whom, and which module may import which library: read from the source, not from a run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("deployments", "pipelines", "serve_app", "cluster")
ALLOWED_ROOMS = {
    "deployments": {"deployments"},
    "pipelines": {"pipelines", "deployments"},
    "serve_app": {"serve_app", "pipelines", "deployments"},
    "cluster": set(ROOMS),
}
ENGINES = ("deployments/vision/qwen/", "deployments/vision/demo/")
DECODERS = (
    "pipelines/opening.py",
    "pipelines/probe.py",
    "pipelines/demux.py",
    "pipelines/decode.py",
    "pipelines/pictures.py",
    "pipelines/decord_decoder.py",
)
FENCES: dict[str, tuple[str, ...]] = {
    "torch": ENGINES,
    "transformers": ENGINES,
    "bitsandbytes": ENGINES,
    "tokenizers": ENGINES,
    "litellm": ("deployments/chat/litellm_calls.py",),
    "openai": ("deployments/chat/litellm_calls.py",),
    "dotenv": ("deployments/chat/keys.py",),
    "bm25s": ("pipelines/retrieval.py",),
    "Stemmer": ("pipelines/retrieval.py",),
    # Ray's client for jobs speaks by aiohttp, and raises its errors.
    "aiohttp": ("serve_app/sources.py", "serve_app/jobs.py"),
    "httpx2": ("serve_app/service_client.py",),
    "yarl": ("serve_app/sources.py",),
    "fastapi": ("serve_app/",),
    "starlette": ("serve_app/",),
    "prometheus_client": ("serve_app/api/metrics.py",),
    # The demo's sample video is written with PyAV; nothing hostile is decoded there.
    "av": (*DECODERS, "deployments/vision/demo/"),
    "decord": DECODERS,
    "ray.data": ("pipelines/",),
}
WITHOUT_RAY = (
    "deployments/contracts.py",
    "deployments/errors.py",
    "deployments/settings.py",
    "deployments/retry.py",
    "deployments/validation.py",
    "deployments/chat/contracts.py",
    "deployments/chat/citations.py",
    "deployments/chat/extractive.py",
    "deployments/chat/settings.py",
    "deployments/chat/prompt.py",
    "deployments/chat/vision_provider.py",
    "deployments/chat/keys.py",
    "deployments/chat/litellm_calls.py",
    "deployments/chat/litellm_provider.py",
    "deployments/chat/embedder.py",
    "deployments/chat/deployment.py",
    "deployments/vision/cloud.py",
    "deployments/vision/prompts.py",
    "deployments/vision/catalog.py",
    "deployments/vision/engine.py",
    "deployments/vision/simulated.py",
    "deployments/vision/batcher.py",
    "deployments/vision/waiting.py",
    "deployments/vision/deployment.py",
    "deployments/vision/qwen/",
    "pipelines/plan.py",
    "pipelines/options.py",
    "pipelines/command_line.py",
    "pipelines/video.py",
    "pipelines/events.py",
    "pipelines/outcome.py",
    "pipelines/describe.py",
    "pipelines/results.py",
    "pipelines/summary.py",
    "pipelines/moments.py",
    "pipelines/retrieval.py",
    "pipelines/leftovers.py",
    "pipelines/line.py",
    "pipelines/ledger.py",
    "pipelines/analysis.py",
    "pipelines/source.py",
    "pipelines/exports.py",
    "pipelines/store.py",
    "pipelines/sandbox",
    "pipelines/opening.py",
    "pipelines/probe.py",
    "pipelines/decode.py",
    "serve_app/api/",
    "serve_app/services.py",
    "serve_app/files.py",
    "serve_app/stored_file.py",
    "serve_app/retention.py",
    "serve_app/draining.py",
    "serve_app/chat/",
    "serve_app/uploads.py",
    "serve_app/janitor.py",
    "serve_app/principal.py",
    "serve_app/alerts.py",
    "serve_app/figures.py",
    "serve_app/stats.py",
    "serve_app/sources.py",
    "serve_app/analyses/",
    "serve_app/config.py",
    "serve_app/pace.py",
)
MODULES = sorted(path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports_of(source: str) -> set[str]:
    """Return every dotted module that the source imports anywhere, `from a import b` as both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def touches(imported: set[str], library: str) -> bool:
    return any(name == library or name.startswith(f"{library}.") for name in imported)


@pytest.mark.parametrize("module", MODULES)
def test_rooms_are_imported_only_along_the_arrows(module: str) -> None:
    room = module.split("/")[0]
    imported = {name.split(".")[0] for name in imports_of((ROOT / module).read_text())}
    assert imported & {*ROOMS, "tests", "benchmarks"} <= ALLOWED_ROOMS[room]


@pytest.mark.parametrize("module", MODULES)
def test_fenced_libraries_stay_behind_their_fence(module: str) -> None:
    imported = imports_of((ROOT / module).read_text())
    outside = [lib for lib, homes in FENCES.items() if touches(imported, lib) and not module.startswith(homes or "-")]
    assert outside == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(WITHOUT_RAY)])
def test_contracts_and_pure_code_import_no_ray(module: str) -> None:
    assert not touches(imports_of((ROOT / module).read_text()), "ray")


def test_the_fence_sees_an_import_inside_a_function() -> None:
    assert touches(imports_of("def f():\n    from ray.data import Dataset\n"), "ray.data")
