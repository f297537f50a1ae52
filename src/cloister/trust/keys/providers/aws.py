"""A root key in AWS KMS, which never leaves it. The encryption context names project, purpose and version, so that
CloudTrail shows whose key was used, and a key policy can speak of it.

Needs the package `boto3` (the extra `aws`). Tried on moto, not on AWS. As with every client library, a key that was
unwrapped passes through `bytes` that nobody can overwrite.
"""

from pathlib import Path
from typing import Any, Final

from cloister.base.errors import CloisterError, PreconditionError
from cloister.trust.keys.providers.provider import Context, KeyDamagedError, ProviderUnavailableError, module

_CONNECT_TIMEOUT_S: Final = 2
_READ_TIMEOUT_S: Final = 5
# The broker asks again itself, and its caller waits for ten seconds.

_AWAY: Final = {
    "DependencyTimeoutException",
    "InternalFailure",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "RequestTimeout",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
}


class AwsProvider:
    name = "aws-kms"
    is_remote = True

    def __init__(
        self, key_id: str, region: str, *, credentials_file: Path | None = None, endpoint_url: str | None = None
    ) -> None:
        """Asks nobody yet. `key_id` is the key's ARN or id, not an alias: an alias can come to mean another key."""
        self._botocore = module("botocore.exceptions", "aws")
        session = module("botocore.session", "aws").Session()
        if credentials_file is not None:
            session.set_config_variable("credentials_file", str(credentials_file))
        config = module("botocore.config", "aws").Config(
            connect_timeout=_CONNECT_TIMEOUT_S, read_timeout=_READ_TIMEOUT_S, retries={"max_attempts": 0}
        )
        boto = module("boto3", "aws").Session(botocore_session=session, region_name=region)
        self._client: Any = boto.client("kms", config=config, endpoint_url=endpoint_url)
        self._key_id = key_id

    @property
    def root_version(self) -> str:
        return self._key_id

    def wrap(self, plaintext: memoryview, context: Context) -> bytes:
        answer = self._call("encrypt", context, Plaintext=bytes(plaintext))
        wrapped: bytes = answer["CiphertextBlob"]
        return wrapped

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> None:
        plaintext: bytes = self._call("decrypt", context, CiphertextBlob=wrapped or b"\0")["Plaintext"]
        if len(plaintext) != len(buffer):
            raise KeyDamagedError(f"{context}: {len(plaintext)} bytes were wrapped")
        buffer[:] = plaintext

    def close(self) -> None:
        self._client.close()

    def _call(self, what: str, context: Context, **arguments: bytes) -> Any:
        named = {"cloister:purpose": context.purpose, "cloister:version": str(context.version)}
        if context.project_id:
            named["cloister:project"] = context.project_id
        try:
            return getattr(self._client, what)(KeyId=self._key_id, EncryptionContext=named, **arguments)
        except self._botocore.ClientError as error:
            raise self._failure(error, context) from error
        except self._botocore.NoCredentialsError as error:
            raise PreconditionError(str(error), public="AWS KMS: the key broker has no credentials") from error
        except self._botocore.BotoCoreError as error:  # no connection, no answer in time
            raise ProviderUnavailableError(str(error), public="AWS KMS does not answer") from error

    def _failure(self, error: Any, context: Context) -> CloisterError:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("InvalidCiphertextException", "IncorrectKeyException"):
            return KeyDamagedError(f"{context}: {code}")
        if code in _AWAY or status >= 500:
            return ProviderUnavailableError(f"{code} {status}", public="AWS KMS does not answer")
        return PreconditionError(f"{self._key_id}: {error}", public=f"AWS KMS refuses: {code}")
