"""Where the decoders find the video of an analysis."""

from dataclasses import replace
from pathlib import Path

from obstore.store import LocalStore, ObjectStore

from deployments.errors import SourceNotFound
from pipelines.source import Source, stamp_of
from serve_app.analyses.request import AnalysisRequest


def source_of(request: AnalysisRequest, store: ObjectStore) -> Source:
    """Return the file of a local store, or the object of another one. Raises SourceNotFound for a file that is gone."""
    in_store = Source(request.source, request.filename, request.sha256, request.size_bytes, request.video, None, store)
    if not isinstance(store, LocalStore):
        return in_store
    path = str(Path(str(store.prefix)) / request.source)
    try:
        return replace(in_store, path=path, stamp=stamp_of(path), store=None)
    except OSError as error:
        raise SourceNotFound(f"expected the uploaded video, got none any more: {request.filename}") from error
