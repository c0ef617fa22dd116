"""Every error that Vidray raises on purpose, as one picklable tree.

    AppError
    ├── InvalidInput            what the caller sent cannot be used (final)
    │   ├── InvalidOption       an option outside its bounds, or an unknown one
    │   ├── InvalidConfig       serve_config.yaml or its `args`
    │   ├── UnknownModel        a model name that no deployment serves
    │   ├── SourceNotFound      the video's path does not exist or is no regular file
    │   ├── SourceNotAllowed    a url of a host or directory that the server may not read
    │   ├── UnreadableVideo     no video that the decoders can read
    │   ├── FrameTooLarge       frames above the pixel limit, refused before decoding
    │   ├── NotFound            no such file, upload or analysis, or another owner's
    │   ├── TooLarge            more bytes than are taken, refused while reading
    │   ├── SlowBody            the request's body stopped coming
    │   └── RangeNotSatisfiable no byte of the range exists
    ├── Forbidden               the caller's role does not allow this
    │   ├── CloudNotAllowed     nothing of this analysis may leave the premises
    │   └── HostNotAllowed      asked by a name that may be somebody else's
    ├── UploadConflict          the upload has ended, or its parts are not what was announced
    ├── Deposed                 another runner has taken the analysis over
    ├── AnalysisConflict        the analysis is in no state for this, or the key names another one
    ├── Cancelled               a clip was not reached before the analysis was cancelled
    ├── DeadlineExceeded        a clip was not reached before the analysis's deadline
    ├── OutputConflict          the output already belongs to other work
    ├── SourceChanged           the video's file is no longer the one that was planned
    ├── SourceUnavailable       the url's host does not answer, or stopped sending
    ├── StorageFailed           the object store cannot be read or written now
    │   └── StorageFull         too little room is left to take anything in
    ├── ClipFailed              one clip has no caption; the analysis goes on
    │   ├── ClipUndecodable     none of the clip's frames can be decoded
    │   ├── PoisonClip          the clip killed its decoder at every attempt
    │   └── ClipRejected        the engine will never take this clip
    ├── DecoderLost             the decoder process died or passed its deadline
    ├── EngineFailed            the engine raised on this input
    │   ├── OutOfMemory         the device has too little memory for these clips now
    │   ├── DeviceLost          the device no longer works in this process
    │   └── ModelLoadFailed     the checkpoint cannot be loaded
    ├── UpstreamFailed          no model outside has answered, at no attempt; it may later
    │   ├── UpstreamSlow        it has not answered before the deadline
    │   └── UpstreamRefused     it will not answer this: a wrong key, an unknown model, too much text
    ├── ServiceFailed           the Vidray service that a command speaks to does not answer, or not as it should
    ├── BudgetExceeded          what the owner may spend in a day is spent
    ├── ReplicaLost             the replica died or is not there yet; try again
    └── Overloaded              queues are full; backpressure, not a failure

Each class carries the `code` that clients see, its HTTP status, and whether trying the same thing again can help.
"""

from typing import Any, ClassVar


class AppError(Exception):
    """An expected failure: `message` is one line for people, `details` are JSON-able fields for machines."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidInput(AppError):
    code = "invalid_request"
    http_status = 400


class InvalidOption(InvalidInput):
    code = "invalid_option"
    http_status = 422


class InvalidConfig(InvalidInput):
    code = "invalid_config"
    http_status = 422


class UnknownModel(InvalidInput):
    code = "model_not_found"
    http_status = 404


class SourceNotFound(InvalidInput):
    code = "source_not_found"
    http_status = 404


class SourceNotAllowed(InvalidInput):
    code = "source_not_allowed"
    http_status = 403


class UnreadableVideo(InvalidInput):
    code = "unreadable_video"
    http_status = 415


class FrameTooLarge(InvalidInput):
    code = "frame_too_large"
    http_status = 415


class NotFound(InvalidInput):
    code = "not_found"
    http_status = 404


class TooLarge(InvalidInput):
    code = "too_large"
    http_status = 413


class SlowBody(InvalidInput):
    code = "slow_body"
    http_status = 408


class RangeNotSatisfiable(InvalidInput):
    code = "range_not_satisfiable"
    http_status = 416


class Forbidden(AppError):
    code = "forbidden"
    http_status = 403


class CloudNotAllowed(Forbidden):
    code = "cloud_not_allowed"


class HostNotAllowed(Forbidden):
    code = "host_not_allowed"


class UploadConflict(AppError):
    code = "upload_conflict"
    http_status = 409


class Deposed(AppError):
    code = "deposed"


class AnalysisConflict(AppError):
    code = "analysis_conflict"
    http_status = 409


class Cancelled(AppError):
    code = "cancelled"
    retryable = True


class DeadlineExceeded(AppError):
    code = "deadline_exceeded"
    retryable = True


class OutputConflict(AppError):
    code = "output_conflict"
    http_status = 409


class SourceChanged(AppError):
    code = "source_changed"
    http_status = 503
    # Not made final: the right file may come back, and its clips are wanted then.
    retryable = True


class SourceUnavailable(AppError):
    code = "source_unavailable"
    http_status = 503
    retryable = True


class StorageFailed(AppError):
    code = "storage_failed"
    http_status = 503
    retryable = True


class StorageFull(StorageFailed):
    code = "storage_full"


class ClipFailed(AppError):
    code = "clip_failed"


class ClipUndecodable(ClipFailed):
    code = "clip_undecodable"
    http_status = 415


class PoisonClip(ClipFailed):
    code = "poison_clip"
    http_status = 415


class ClipRejected(ClipFailed):
    code = "clip_rejected"
    http_status = 422


class DecoderLost(AppError):
    code = "decoder_lost"
    retryable = True


class EngineFailed(AppError):
    code = "engine_failed"
    retryable = True


class OutOfMemory(EngineFailed):
    code = "out_of_memory"
    http_status = 503


class DeviceLost(EngineFailed):
    code = "device_lost"
    http_status = 503


class ModelLoadFailed(EngineFailed):
    code = "model_load_failed"
    http_status = 503
    retryable = False


class UpstreamFailed(AppError):
    code = "upstream_failed"
    http_status = 502
    retryable = True


class UpstreamSlow(UpstreamFailed):
    code = "upstream_slow"
    http_status = 504


class UpstreamRefused(UpstreamFailed):
    code = "upstream_refused"
    retryable = False


class ServiceFailed(AppError):
    code = "service_failed"
    http_status = 502
    retryable = True


class BudgetExceeded(AppError):
    code = "budget_exceeded"
    http_status = 429


class ReplicaLost(AppError):
    code = "replica_lost"
    http_status = 503
    retryable = True


class Overloaded(AppError):
    code = "overloaded"
    http_status = 503
    retryable = True
