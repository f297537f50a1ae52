"""What an operator decides once, and where things lie on disk because of it.

`cloister up` parses its options into `Settings`, writes them to the state directory, and every process reads them
there. Nothing in this file is a secret: secrets are files of their own, named by `Paths`.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from cloister.base.durable import write_durably
from cloister.base.egress import parse_allowed
from cloister.base.errors import BadRequestError, PreconditionError
from cloister.base.limits import SUSPEND_TIMEOUT_DEFAULT_S

LAYOUT_VERSION: Final = 1
"""The version of the state directory. A directory of another version is refused, never guessed at."""

STATE_DIR_DEFAULT: Final = Path("/var/lib/cloister")

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")


class Address(msgspec.Struct, frozen=True):
    """A TCP address to listen on. An empty host means every address of this machine, IPv4 and IPv6."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`HOST:PORT`, `[V6]:PORT` or `:PORT`."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise BadRequestError(f"bad address {text!r}", public=f"{text!r} is not HOST:PORT")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of one platform. Times in seconds."""

    state_dir: str
    domain: str = "db.localhost"
    """Endpoints are `ep-….DOMAIN`; the certificate covers `*.DOMAIN` and `DOMAIN`."""
    listen_postgres: Address = Address("", 5432)
    listen_https: Address = Address("", 443)
    storage: Literal["luks", "plain"] = "luks"
    opener: Literal["auto", "dm-crypt", "qemu-storage-daemon"] = "auto"
    """How a LUKS image is opened; `auto` takes dm-crypt where the kernel has device-mapper."""
    open_swap: Literal["refuse", "allow"] = "refuse"
    """Whether to start with encrypted volumes beside swap that is not encrypted, and that memory of ours may get into."""
    repair_days: int = 14
    """For how long a security update of the host's packages may wait before it is a finding."""
    gateway_workers: int = 2
    database_url: str | None = None
    """An external control database; None runs the embedded one."""
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    """The operator's own certificate (PEM, chain included); None uses Cloister's own CA."""
    proxy_protocol_from: tuple[str, ...] = ()
    """Addresses or networks whose connections start with a PROXY protocol v2 header. All others must not."""
    jwks_networks: tuple[str, ...] = ()
    """Private addresses or networks where a project's JWKS URL may lead; anywhere else it must be public."""
    jwks_authority: str | None = None
    """PEM of an authority that signs the certificates of JWKS URLs, beside the system's."""
    suspend_timeout_s: int = SUSPEND_TIMEOUT_DEFAULT_S
    """For endpoints with suspend_timeout_seconds 0."""
    idle_check_interval_s: float = 5.0
    store_passwords: bool = False
    """Default of a new project's `store_passwords`."""
    pool_volumes: int = 3
    """Formatted volumes kept ready, so that creating a project only takes one."""
    volume_bytes: int = 64 * 1024**3
    """Virtual size of a project's volume. The image is sparse: it takes what is written."""
    password_policy: Literal["strict", "neon"] = "strict"  # noqa: S105 - the name of a policy
    """How the 60 bits of a role's password are counted: docs/passwords.md. Computes take it when they start."""
    region_id: str = "self-hosted"
    egress_allow: tuple[str, ...] = ()
    """Networks to which ways out may lead although they are private, or this machine's own: docs/egress.md."""

    def validate(self) -> None:
        """Refuse what cannot work, with one sentence a person can act on."""
        if not _DOMAIN.fullmatch(self.domain) or len(self.domain) > 180:
            raise BadRequestError(public=f"domain {self.domain!r} is not a lower-case DNS name")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise BadRequestError(public="--tls-cert and --tls-key belong together")
        if self.database_url is not None and _holds_password(self.database_url):
            raise BadRequestError(
                public="--database-url must not hold a password: every process reads the settings. "
                "Use peer or certificate authentication, or ?passfile=FILE readable by cloister-api, cloister-keys and cloister-sentinel",
            )
        if not 1 <= self.gateway_workers <= 64:
            raise BadRequestError(public="--gateway-workers must be 1 to 64")
        parse_allowed(self.egress_allow)

    @property
    def paths(self) -> "Paths":
        return Paths(Path(self.state_dir))


class Paths:
    """Where everything lies. No name from a tenant is ever part of a path; ids are (see `base/ids.py`)."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        digest = hashlib.sha256(os.fsencode(os.path.realpath(state_dir))).hexdigest()[:8]
        self.run = Path("/run/cloister") / digest
        """Sockets, mount points and pid records: gone after a reboot, and short, for `sun_path` has 108 bytes."""
        self.instance = digest
        """Names this platform's cgroups and processes, so that two on one host do not meet."""

        self.layout_version = state_dir / "layout-version"
        self.recovering = state_dir / "recovering"
        """Empty. There from before the first step of `recover-platform` until its last: what is made here is not to begin a new platform."""
        self.settings = state_dir / "settings.json"
        self.secrets = state_dir / "secrets"
        self.root_key = self.secrets / "root.key"
        """0600, owned by the key broker's user."""
        self.key_providers = self.secrets / "key-providers.json"
        """Which root keys there are, where it is not `root_key` alone."""
        self.key_shares = self.secrets / "key-shares.json"
        """That the root key is in several hands, and when they were last tried. Nothing of a share."""
        self.key_backup = self.secrets / "key-backup.json"
        """That the keystore was copied, of which epoch, and when a copy was last tried. Nothing of it."""
        self.admin_key = self.secrets / "admin.key"
        """The first API key, 0600 root: the CLI on the server itself uses it."""
        self.mock_key = self.secrets / "mock.key"
        """32 bytes, 0600, owned by the API's user: seeds the salts of roles that do not exist."""
        self.control_key = self.secrets / "control.key"
        """32 bytes, 0600, owned by the API's user: encrypts what the control database may hold only encrypted."""
        self.certificates = state_dir / "certificates"
        """ca.pem (public), chain.pem + key.pem (leaf), intermediate; private files 0600."""
        self.ca_file = self.certificates / "ca.pem"
        self.control_data = state_dir / "control"
        """The embedded control database: its configuration, and PGDATA in `data`."""
        self.notary = state_dir / "notary"
        """The key that signs checkpoints of the audit log, wrapped, and the last one signed. The key broker's."""
        self.alerts = state_dir / "alerts"
        """Of the sentinel: where alerts go, with the secrets of these places."""
        self.alert_channels = self.alerts / "channels.json"
        self.audit_exports = self.alerts / "exports.json"
        """Who is sent the audit log, likewise."""
        self.threats = state_dir / "threats"
        """The operator's lists of addresses, a file a list, one address or network a line: `malicious`, `tor`."""
        self.keystore = state_dir / "keystore"
        """The seals of projects. The key broker's."""
        self.epochs = state_dir / "epochs"
        """The key of the keystore's epoch: in no backup (docs/keys.md). Put a disk that can forget in this place."""
        self.volumes = state_dir / "volumes"
        """One image (or directory, with `plain`) per project, 0700 root."""
        self.courier = state_dir / "courier"
        """Where backups go, with the credentials there. The courier's."""
        self.store_file = self.courier / "store.json"
        self.backups = state_dir / "backups"
        """What the agent remembers of what lies in the store, a file a project; losing it costs sending again. Root's."""
        self.backup_sender = state_dir / "backup-sender.json"
        """Who this platform is to each store that it sent into, 0600 root. In no backup: what comes back is another sender."""
        self.backup_take_over = state_dir / "backup-take-over"
        """Empty. There from when root said that this platform sends from now on, until it has taken the store over."""
        self.engines = state_dir / "engines"
        """Cluster templates and root file systems of the engines, built once per engine version."""
        self.policies = state_dir / "policies"
        """The operator's own rules of access, `*.cedar`, beside those that are shipped. Need not be there."""
        self.logs = state_dir / "logs"
        self.watchman = state_dir / "watchman.json"
        """What the watchman's last round told, 0600 root."""

        self.control_socket_dir = self.run / "control"
        """The control database's Unix socket directory."""
        self.agent_run = self.run / "agent"
        self.keys_run = self.run / "keys"
        self.api_run = self.run / "api"
        self.gateway_run = self.run / "gateway"
        """A directory per service, owned by its user: nobody else can put a socket there in its place."""
        self.egress_run = self.run / "egress"
        self.courier_run = self.run / "courier"
        self.agent_socket = self.agent_run / "agent.sock"
        self.broker_socket = self.keys_run / "keys.sock"
        self.directory_socket = self.api_run / "directory.sock"
        self.egress_socket = self.egress_run / "egress.sock"
        self.courier_socket = self.courier_run / "courier.sock"
        self.egress_doors = self.run / "doors"
        """`doors/PROJECT_ID`: the sockets that its computes see as `/egress`; root's, so that no entry is swapped."""
        self.last_sending = self.api_run / "last-sending.json"
        """While the platform stops: how far the api is with what no backup has yet."""
        self.https_socket = self.api_run / "https.sock"
        """Where the gateway's workers pass on the HTTPS connections that are the API's."""
        self.mounts = self.run / "mounts"
        """`mounts/PROJECT_ID`: an open volume, in the platform's private mount namespace."""
        self.computes = self.run / "computes"
        """`computes/ENDPOINT_ID`: a running compute's Unix socket directory."""
        self.supervisor_lock = self.run / "supervisor.lock"
        """Held by a running supervisor, whose pid stands in it, or by who brings the platform back."""
        self.status = self.run / "status.json"
        """What runs, as the supervisor last saw it."""


def _holds_password(url: str) -> bool:
    parts = urlsplit(url)
    return parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True)


def save(settings: Settings) -> None:
    # Every process reads it; nothing in it is secret.
    write_durably(settings.paths.settings, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")


def load(state_dir: Path) -> Settings:
    """The settings of the platform in `state_dir`. Raises PreconditionError when there is none, or of another layout."""
    paths = Paths(state_dir)
    check_layout(paths)
    try:
        return msgspec.json.decode(paths.settings.read_bytes(), type=Settings)
    except FileNotFoundError:
        raise PreconditionError(public=f"no platform in {state_dir}: start one with `cloister up`") from None
    except msgspec.DecodeError as error:  # a ValidationError is one
        raise PreconditionError(public=f"{paths.settings}: {error}") from error


def check_layout(paths: Paths) -> None:
    """Refuse a state directory that another version of Cloister wrote."""
    try:
        found = paths.layout_version.read_text().strip()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise PreconditionError(public=f"{paths.state_dir} is not a directory") from None
    if found != str(LAYOUT_VERSION):
        raise PreconditionError(
            public=f"{paths.state_dir} has layout version {found[:20]!r}; this Cloister understands {LAYOUT_VERSION}",
        )
