"""The errors that are sentences: one root per package that a task may call."""

from data.errors import DataError
from evidence.errors import EvidenceError
from model.errors import ModelError
from tasks.errors import TaskError

KNOWN_ERRORS = (DataError, EvidenceError, ModelError, TaskError)
