# SPDX-License-Identifier: Apache-2.0
"""TF Serving's error codes and texts, in one place.

A client must not be able to tell the embedded server from a real one by its
errors, so every text that a caller can see is made here and is compared with
the recorded ones by `tests/serving/errors_test.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator

import grpc
import tensorflow as tf

# The real server cuts status messages at this length: they travel in an HTTP/2
# header, which clients limit to 8 KiB.
_MAX_MESSAGE_LENGTH = 1024

_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """An error with the gRPC status that the caller is to see.

    Attributes:
      code: the status code.
      message: the status text, without the limit on its length.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    @property
    def number(self) -> int:
        """The code as a number, as `StatusProto.error_code` holds it."""
        return int(self.code.value[0])


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def missing_model_spec() -> ServingError:
    return _invalid("Missing ModelSpec")


def empty_model_name() -> ServingError:
    return _invalid("ModelSpec has no name specified.")


def unknown_label(label: str) -> ServingError:
    return _invalid(f"Unrecognized servable version label: {label}")


def servable_not_found(name: str, version: int | None) -> ServingError:
    """No such model (`version` None), or no such version of it, is served."""
    request = (
        f"Latest({name})"
        if version is None
        else (f"Specific({name}, {version})")
    )
    return ServingError(
        grpc.StatusCode.NOT_FOUND,
        f"Servable not found for request: {request}",
    )


def unknown_signature(name: str) -> ServingError:
    return ServingError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f'Serving signature key "{name}" not found.',
    )


def wrong_input_count(
    sent: Collection[str], expected: Collection[str]
) -> ServingError:
    """The request has more or fewer inputs than the signature."""
    extra = set(sent) - set(expected)
    missing = set(expected) - set(sent)
    return _invalid(
        f"input size does not match signature: {len(sent)}!={len(expected)} "
        f"len({_braced(sent)}) != len({_braced(expected)}). "
        f"Sent extra: {_braced(extra)}. "
        f"Missing but required: {_braced(missing)}."
    )


def missing_input(
    alias: str, feed: str, sent: Collection[str], defaults: Collection[str]
) -> ServingError:
    """The number of inputs is right, but one has a wrong name."""
    return _invalid(
        f"Signature input alias: {alias}(feed name: {feed}) not found in "
        "request and no default value provided. Inputs expected to be in the "
        f"request {_braced(sent)}, or default input alias set: "
        f"{','.join(sorted(defaults))}"
    )


def unused_inputs(used: Collection[str], sent: Collection[str]) -> ServingError:
    """Inputs beyond the signature's, where its defaults hid their number."""
    return _invalid(
        "Inputs contains invalid name. Used request inputs: "
        f"{','.join(sorted(used))}, request input: {','.join(sorted(sent))}"
    )


def malformed_tensor(alias: str) -> ServingError:
    return _invalid(f"tensor parsing error: {alias}")


def wrong_dtype(index: int, got: str, expected: str) -> ServingError:
    """The dtype of feed `index` (in the order of feed names) is wrong."""
    return _invalid(
        f"Expects arg[{index}] to be {expected} but {got} is provided"
    )


def unknown_output(alias: str, outputs: Collection[str]) -> ServingError:
    return _invalid(
        f"output tensor alias not found in signature: {alias} Outputs "
        f"expected to be in the set {_braced(outputs)}."
    )


def duplicate_output(alias: str) -> ServingError:
    return _invalid(f"duplicate output tensor alias: {alias}")


def no_metadata_field() -> ServingError:
    return _invalid(
        "GetModelMetadataRequest must specify at least one metadata_field"
    )


def unknown_metadata_field(field: str) -> ServingError:
    return _invalid(f"Metadata field {field} is not supported")


def no_versions(name: str) -> ServingError:
    return ServingError(
        grpc.StatusCode.NOT_FOUND,
        f"Could not find any versions of model {name}",
    )


def version_not_found(name: str, version: int) -> ServingError:
    return ServingError(
        grpc.StatusCode.NOT_FOUND,
        f"Could not find version {version} of model {name}",
    )


def not_a_saved_model(path: str) -> ServingError:
    return ServingError(
        grpc.StatusCode.NOT_FOUND,
        "Specified file path does not appear to contain a SavedModel bundle "
        "(should have a file called `saved_model.pb`)\n"
        f"Specified file path: {path}",
    )


def label_not_available(name: str, version: int) -> ServingError:
    return ServingError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"Request to assign label to version {version} of model {name}, "
        "which is not currently available for inference",
    )


def from_tensorflow(error: tf.errors.OpError) -> ServingError:
    """Maps a TensorFlow error to the status that the real server sends.

    `Session.run` raises a copy of the error whose text has a Python stack
    trace appended; the error that it was made from still has the text alone.
    """
    raw = error.__context__
    if isinstance(raw, tf.errors.OpError):
        error = raw
    code = _CODES_BY_NUMBER.get(error.error_code, grpc.StatusCode.UNKNOWN)
    return ServingError(code, error.message)


@contextlib.contextmanager
def as_status(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the RPC with the status of a `ServingError` raised inside."""
    try:
        yield
    except ServingError as error:
        message = error.message
        if len(message) > _MAX_MESSAGE_LENGTH:
            message = message[:_MAX_MESSAGE_LENGTH] + "...TRUNCATED"
        context.abort(error.code, message)
