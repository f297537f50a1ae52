"""What a refusal is called in Postgres: a SQLSTATE and a sentence for the client, a stable word for the audit log."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cloister.base.errors import CloisterError, Kind
from cloister.base.ipallow import IpAddress

SQLSTATE: Final[Mapping[Kind, str]] = MappingProxyType({
    Kind.BAD_REQUEST: "08P01",  # protocol_violation
    Kind.UNAUTHENTICATED: "28P01",  # invalid_password
    Kind.FORBIDDEN: "28000",  # invalid_authorization_specification
    Kind.NOT_FOUND: "3D000",  # invalid_catalog_name
    Kind.CONFLICT: "55006",  # object_in_use
    Kind.BUSY: "57P03",  # cannot_connect_now
    Kind.UNPROCESSABLE: "55000",  # object_not_in_prerequisite_state
    Kind.PRECONDITION: "55000",
    Kind.RATE_LIMITED: "53400",  # configuration_limit_exceeded
    Kind.UNAVAILABLE: "57P03",
    Kind.EXHAUSTED: "53300",  # too_many_connections
    Kind.INTERNAL: "XX000",
})  # fmt: skip


class RefusedError(Exception):
    """A client is turned away. `str(error)` is for our log."""

    def __init__(self, reason: str, sqlstate: str, public: str, detail: str = "") -> None:
        super().__init__(detail or public)
        self.reason = reason
        """A stable word for the audit log."""
        self.sqlstate = sqlstate
        self.public = public


class ClientLeftError(Exception):
    """The client closed the connection: there is nobody to answer."""


def of_error(error: CloisterError, reason: str) -> RefusedError:
    return RefusedError(reason, SQLSTATE[error.kind], error.public, str(error))


def bad_password(user: str, detail: str) -> RefusedError:
    """One text for a wrong password, a role that is not there, and an endpoint that is not there."""
    return RefusedError("bad_password", "28P01", f'password authentication failed for user "{user}"', detail)


def bad_token(user: str, detail: str, told: str = "") -> RefusedError:
    """One text for a token that is not good here, a role that is not there, and an endpoint that is not there. `told`: what is
    wrong with the token wherever it is shown."""
    because = f": {told}" if told else ""
    return RefusedError("bad_token", "28000", f'token authentication failed for user "{user}"{because}', detail)


def ip_not_allowed(address: IpAddress) -> RefusedError:
    text = (
        f"This IP address {address} is not allowed to connect to this endpoint. Please add it to the allowed list in the"
        " Neon console. Make sure to check for IPv4 or IPv6 addresses."
    )
    return RefusedError("ip_not_allowed", "28000", text)


def binding_required() -> RefusedError:
    text = (
        "This project requires channel binding. Connect to port 5432 under the endpoint's own name, with"
        " channel_binding=require in the connection string, from a client that can (libpq 13 or newer)."
    )
    return RefusedError("binding_required", "28000", text)


def too_many_attempts(detail: str) -> RefusedError:
    return RefusedError("rate_limited", "53400", "Too many connections attempts", detail)


def too_many_connections() -> RefusedError:
    text = "Too many connections to this endpoint. Please try again later."
    return RefusedError("too_many_connections", "53300", text)


def not_recorded() -> RefusedError:
    text = "This access is recorded, which is possible on port 5432 and through its own endpoint only."
    return RefusedError("not_recorded", "0A000", text)


def endpoint_missing() -> RefusedError:
    text = (
        "Endpoint ID is not specified. Either please upgrade the postgres client library (libpq) for SNI support or pass"
        " the endpoint ID (first part of the domain name) as a parameter: '?options=endpoint%3D<endpoint-id>'."
    )
    return RefusedError("no_endpoint", "08004", text)


def endpoint_inconsistent(first: str, second: str) -> RefusedError:
    text = f"Inconsistent project name inferred from SNI ('{first}') and project option ('{second}')."
    return RefusedError("inconsistent_endpoint", "08004", text)


def endpoint_malformed(name: str) -> RefusedError:
    text = f"Project name ('{name[:80]}') must contain only alphanumeric characters and hyphen."
    return RefusedError("malformed_endpoint", "08004", text)


def point_malformed(public: str) -> RefusedError:
    return RefusedError("malformed_point", "22007", public)  # invalid_datetime_format


def points_inconsistent() -> RefusedError:
    text = "More than one point in the past is asked for: give one neon_timestamp or one neon_lsn."
    return RefusedError("inconsistent_points", "22023", text)


def point_missing() -> RefusedError:
    text = (
        "A branch's own host leads to its past: give options=neon_timestamp:TIME or options=neon_lsn:LSN, or connect to the"
        " host of an endpoint."
    )
    return RefusedError("no_point", "22023", text)


def type_malformed() -> RefusedError:
    return RefusedError("malformed_endpoint_type", "22023", "neon_endpoint_type is read_write or read_only")


def type_differs(is_read_only: bool) -> RefusedError:
    text = (
        "This is read-only: leave neon_endpoint_type:read_write out, or connect to the branch's read-write endpoint."
        if is_read_only
        else "This endpoint is read-write: connect to the host of a read-only endpoint of the branch."
    )
    return RefusedError("other_endpoint_type", "22023", text)


def point_unreachable(error: CloisterError) -> RefusedError:
    return RefusedError("point_unreachable", "22023", error.public, str(error))  # invalid_parameter_value


def unsupported_parameter(which: str) -> RefusedError:
    text = (
        f"unsupported startup parameter{which}. Please use unpooled connection or remove this parameter from the startup"
        " package."
    )
    return RefusedError("unsupported_parameter", "08P01", text)


def audit_unavailable() -> RefusedError:
    return RefusedError("audit_unavailable", "57P03", "temporarily unavailable: try again in a moment")


def compute_unavailable(detail: str) -> RefusedError:
    return RefusedError("compute_unavailable", "57P03", "the compute does not accept connections: try again", detail)
