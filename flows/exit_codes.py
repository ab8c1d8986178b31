"""From error classes to exit codes; the numbers up to 10 are the reference's."""

from collections.abc import Mapping

from data import errors as data_errors
from data import source_errors
from evidence import errors as evidence_errors
from flows import errors as flow_errors
from model import errors as model_errors
from tasks import errors as task_errors
from tasks import evaluate_errors, ledger_errors, train_errors

UNEXPECTED = 1
USAGE = 2
NOT_FOUND = 3
INVALID_FORMAT = 4
VALIDATION_FAILED = 5
MODEL_LOAD_FAILED = 6
STORAGE = 7
INFERENCE_FAILED = 8
NOT_AVAILABLE = 9
NETWORK = 10
STOPPED = 11
NOT_COMPARABLE = 12
INTERRUPTED = 130
BROKEN_PIPE = 141
"What a shell shows of a program whose output nobody reads on."

INFERENCE_GATE = "evaluate.inference"
"""The gate whose failure is no verdict on a model's quality."""

EXIT_CODES: Mapping[type[Exception], int] = {
    flow_errors.UsageError: USAGE,
    flow_errors.PortBusyError: NETWORK,
    flow_errors.ServerRefusedError: NETWORK,
    flow_errors.ServerLostError: NETWORK,
    flow_errors.ServiceFailedError: NETWORK,
    flow_errors.PrefectUnreachableError: NETWORK,
    flow_errors.NotApprovedError: VALIDATION_FAILED,
    flow_errors.VerificationError: VALIDATION_FAILED,
    flow_errors.RunGoesOnError: NOT_AVAILABLE,
    task_errors.NotFoundError: NOT_FOUND,
    task_errors.NoRunsError: NOT_FOUND,
    ledger_errors.WithdrawnError: USAGE,
    ledger_errors.OtherVersionError: VALIDATION_FAILED,
    ledger_errors.SignatureError: VALIDATION_FAILED,
    task_errors.WrongNameError: USAGE,
    task_errors.AmbiguousError: USAGE,
    task_errors.ArtefactDamagedError: VALIDATION_FAILED,
    task_errors.UnfaithfulFileError: VALIDATION_FAILED,
    task_errors.ImportedError: USAGE,
    task_errors.NotAModelError: USAGE,
    task_errors.StorageError: STORAGE,
    task_errors.UnsupportedStoreError: NOT_AVAILABLE,
    task_errors.StoreRefusedError: STORAGE,
    task_errors.StoreUnreachableError: NETWORK,
    task_errors.UnsharedStoreError: STORAGE,
    task_errors.FeatureError: NOT_AVAILABLE,
    task_errors.SchedulerError: NETWORK,
    task_errors.BusyError: STORAGE,
    train_errors.WorkerDiedError: UNEXPECTED,
    train_errors.WorkerHungError: UNEXPECTED,
    train_errors.NodesMissingError: NETWORK,
    train_errors.StoppedError: STOPPED,
    train_errors.SnapshotDamagedError: VALIDATION_FAILED,
    train_errors.MemoryFullError: NOT_AVAILABLE,
    task_errors.IsolationUnavailableError: NOT_AVAILABLE,
    task_errors.SandboxError: UNEXPECTED,
    task_errors.UnitDiedError: UNEXPECTED,
    task_errors.UnitFailedError: UNEXPECTED,
    task_errors.MirrorError: NETWORK,
    task_errors.DeviceUnavailableError: NOT_AVAILABLE,
    task_errors.CompilerMissingError: NOT_AVAILABLE,
    task_errors.PreflightError: VALIDATION_FAILED,
    evaluate_errors.DifferentTokenizerError: VALIDATION_FAILED,
    evaluate_errors.UnknownModelError: NOT_FOUND,
    evaluate_errors.OutdatedEvaluationError: INVALID_FORMAT,
    data_errors.WrongSettingError: USAGE,
    data_errors.MissingFileError: NOT_FOUND,
    data_errors.MissingSourceError: NOT_FOUND,
    data_errors.EmptySourceError: NOT_FOUND,
    data_errors.UnnameableFileError: INVALID_FORMAT,
    data_errors.ChangedSourceError: VALIDATION_FAILED,
    source_errors.CorruptSourceError: INVALID_FORMAT,
    source_errors.MissingColumnError: INVALID_FORMAT,
    source_errors.EmptyLanguageError: NOT_FOUND,
    source_errors.MissingDatasetError: NOT_FOUND,
    source_errors.HubRefusedError: NETWORK,
    source_errors.BucketRefusedError: NETWORK,
    source_errors.UnreachableSourceError: NETWORK,
    source_errors.FetchIncompleteError: VALIDATION_FAILED,
    data_errors.NoTrainingDocumentsError: VALIDATION_FAILED,
    data_errors.NoValidationDocumentsError: VALIDATION_FAILED,
    data_errors.LeakError: VALIDATION_FAILED,
    data_errors.VocabularyTooLargeError: VALIDATION_FAILED,
    data_errors.WrongTokenizerError: INVALID_FORMAT,
    data_errors.TokenizerGateError: VALIDATION_FAILED,
    data_errors.UnusableEngineError: NOT_AVAILABLE,
    data_errors.EncoderMismatchError: VALIDATION_FAILED,
    data_errors.TokenOutOfRangeError: VALIDATION_FAILED,
    data_errors.RoundTripError: VALIDATION_FAILED,
    data_errors.DegenerateTokensError: VALIDATION_FAILED,
    data_errors.CorpusTooSmallError: VALIDATION_FAILED,
    data_errors.CorruptTokensError: VALIDATION_FAILED,
    data_errors.CorruptShardError: VALIDATION_FAILED,
    data_errors.WrongProblemsError: INVALID_FORMAT,
    evidence_errors.NotPlainError: INVALID_FORMAT,
    evidence_errors.MalformedJsonError: INVALID_FORMAT,
    evidence_errors.BrokenSealError: VALIDATION_FAILED,
    evidence_errors.BrokenChainError: VALIDATION_FAILED,
    evidence_errors.WrongHeadError: USAGE,
    evidence_errors.WrongRefError: USAGE,
    evidence_errors.GateFailedError: VALIDATION_FAILED,
    evidence_errors.NoEvidenceError: NOT_FOUND,
    evidence_errors.MalformedEvidenceError: INVALID_FORMAT,
    evidence_errors.WrongShapeError: INVALID_FORMAT,
    model_errors.WrongSettingError: USAGE,
    model_errors.ModelFormatError: INVALID_FORMAT,
    model_errors.UnsupportedFeatureError: NOT_AVAILABLE,
    model_errors.UnencodableError: VALIDATION_FAILED,
    model_errors.WrongTensorsError: MODEL_LOAD_FAILED,
    model_errors.NonFiniteError: VALIDATION_FAILED,
    model_errors.LossSpikeError: VALIDATION_FAILED,
    model_errors.StreamExhaustedError: VALIDATION_FAILED,
    model_errors.InferenceFailedError: INFERENCE_FAILED,
    model_errors.DifferentProgramsError: NOT_COMPARABLE,
}
"""The table; a subclass without an entry of its own has its nearest ancestor's."""


def exit_code(error: Exception) -> int:
    """Return the exit code of an error; what the table does not know is unexpected."""
    if isinstance(error, train_errors.WorkerFailedError):
        return _BY_NAME.get(error.error, UNEXPECTED)
    if isinstance(error, evidence_errors.GateFailedError) and error.gate == INFERENCE_GATE:
        return INFERENCE_FAILED
    known = (EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
    return next(known, UNEXPECTED)


_BY_NAME = {kind.__name__: code for kind, code in EXIT_CODES.items()}
