# SPDX-License-Identifier: Apache-2.0
"""Who may change what a server serves: TLS, a bearer token, read-only mode.

The TLS file is the one of tensorflow_model_server's `--ssl_config_file`. That
server has no tokens and no read-only mode; a proxy in front of it gives the
same answers (see serving_configs/README.md).
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from lintf.index.signatures import MUTATING_SIGNATURES
from lintf.serving.errors import ServingError

_TOKEN_KEY = "authorization"
_SCHEME = "bearer"


@dataclasses.dataclass(frozen=True)
class Access:
    """What a server lets its callers do.

    Reading needs no token: who may ask is for TLS with client certificates.

    Attributes:
      token: what calls of mutating signatures and config reloads must carry
        as metadata `authorization: Bearer TOKEN`; None asks for none.
      read_only: whether mutating signatures are refused. Reloads are not:
        they choose what is served, and change nothing in it.
    """

    token: str | None = dataclasses.field(default=None, repr=False)
    read_only: bool = False

    def check_predict(
        self, signature: str, metadata: Iterable[tuple[str, Any]]
    ) -> None:
        """Refuses a Predict call that its caller may not make.

        Args:
          signature: the signature's name.
          metadata: of the call.

        Raises:
          ServingError: UNAUTHENTICATED without the token, PERMISSION_DENIED
            in read-only mode. Not FAILED_PRECONDITION: that is the answer to
            a change that does not follow the stored offset, after which an
            ingester goes on.
        """
        if signature not in MUTATING_SIGNATURES:
            return
        self._check_token(
            f'Signature "{signature}" changes the index', metadata
        )
        if self.read_only:
            raise ServingError(
                grpc.StatusCode.PERMISSION_DENIED,
                f'Signature "{signature}" changes the index, and this server '
                "is read-only; send changes to a server without --read_only.",
            )

    def check_reload(self, metadata: Iterable[tuple[str, Any]]) -> None:
        """Refuses a config reload without the token.

        Raises:
          ServingError: UNAUTHENTICATED.
        """
        self._check_token("A config reload changes what is served", metadata)

    def _check_token(
        self, what: str, metadata: Iterable[tuple[str, Any]]
    ) -> None:
        if self.token is None:
            return
        given = [value for key, value in metadata if key == _TOKEN_KEY]
        if len(given) != 1 or not self._is_token(given[0]):
            raise ServingError(
                grpc.StatusCode.UNAUTHENTICATED,
                f"{what}: the call must carry the metadata `{_TOKEN_KEY}: "
                "Bearer TOKEN` with this server's token, got "
                f"{'another one' if given else 'none'}.",
            )

    def _is_token(self, value: str) -> bool:
        assert self.token is not None
        scheme, _, token = value.partition(" ")
        # The time that the comparison takes tells nothing about the token.
        same = hmac.compare_digest(token.encode(), self.token.encode())
        return same and scheme.lower() == _SCHEME


def read_token_file(path: str) -> str:
    """The token in a file, without white space around it.

    Raises:
      ValueError: the file can't be read, or holds no token; the text names it.
    """
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except OSError as error:
        raise ValueError(
            f"The token file {path} can't be read: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"The token file {path} must be ASCII.") from error
    if not token or not token.isprintable() or " " in token:
        raise ValueError(
            f"The token file {path} must hold one token: printable ASCII "
            "characters without spaces, on one line."
        )
    return token


def read_ssl_config_file(path: str) -> grpc.ServerCredentials:
    """Credentials from an `SSLConfig` text proto.

    Its fields are PEM texts: `server_key`, `server_cert` and, for client
    certificates, `custom_ca`; with `client_verify` clients must have one.

    Raises:
      ValueError: the file is not such; the text names it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            config = text_format.Parse(file.read(), _ssl_config_class()())
    except OSError as error:
        raise ValueError(
            f"The SSL config file {path} can't be read: {error.strerror}."
        ) from error
    except text_format.ParseError as error:
        raise ValueError(
            f"The SSL config file {path} must be an SSLConfig text proto, but "
            f"line:column {error}"
        ) from error
    required = ["server_key", "server_cert"]
    if config.client_verify:
        required.append("custom_ca")
    for name in ("server_key", "server_cert", "custom_ca"):
        text = getattr(config, name)
        if (text or name in required) and "-----BEGIN " not in text:
            raise ValueError(
                f"The SSL config file {path} must have a PEM text (with "
                f"-----BEGIN ...) as `{name}`, got "
                f"{'another text' if text else 'none'}."
            )
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def _ssl_config_class() -> Any:
    """The class of TensorFlow Serving's SSLConfig.

    tensorflow-serving-api leaves ssl_config.proto out; these are its fields.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="lintf/serving/ssl_config.proto",
        package="lintf.serving",
        syntax="proto3",
    )
    message = file.message_type.add(name="SSLConfig")
    for number, (name, kind) in enumerate(
        (
            ("server_key", field.TYPE_STRING),
            ("server_cert", field.TYPE_STRING),
            ("custom_ca", field.TYPE_STRING),
            ("client_verify", field.TYPE_BOOL),
        ),
        1,
    ):
        message.field.add(
            name=name, number=number, label=field.LABEL_OPTIONAL, type=kind
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("lintf.serving.SSLConfig")
    )
