"""Puts the control plane together: everything that decides, in one process, built once.

`app/` gives it a database, the key broker and two keys, calls what is in `control`, and runs it. Nothing else here.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.egress import parse_allowed
from cloister.base.errors import CloisterError
from cloister.base.identities import Service
from cloister.base.ipallow import AllowList
from cloister.base.rpc import Client
from cloister.base.secret import Secret
from cloister.base.settings import Settings
from cloister.control.access.guard import AccessGuard
from cloister.control.access.keeper import AccessKeeper
from cloister.control.access.sealing import Broker, KeyRing
from cloister.control.access.service import AccessService
from cloister.control.backups import operations as backup_operations
from cloister.control.backups.keeper import BackupKeeper
from cloister.control.backups.operations import BackupsWorld
from cloister.control.backups.owed import Owed
from cloister.control.backups.parting import Parting
from cloister.control.backups.platform import PlatformKeeper
from cloister.control.backups.service import BackupService
from cloister.control.branches import operations as branch_operations
from cloister.control.branches.caretaker import Caretaker
from cloister.control.branches.children import Children
from cloister.control.branches.consents import ConsentService
from cloister.control.branches.freshness import Freshness
from cloister.control.branches.making import BranchesWorld
from cloister.control.branches.masking import MaskingService
from cloister.control.branches.schemas import SchemaService
from cloister.control.branches.service import BranchService
from cloister.control.branches.snapshots import SnapshotService
from cloister.control.branches.standbys import Standbys
from cloister.control.branches.successions import Successions
from cloister.control.computes import operations as compute_operations
from cloister.control.computes.agent import Agent
from cloister.control.computes.ages import AgeWatch
from cloister.control.computes.backoff import Backoff
from cloister.control.computes.directory import DirectoryServer
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.operations import ComputesWorld
from cloister.control.computes.reconcile import Reconciler
from cloister.control.computes.runner import Runner
from cloister.control.computes.service import EndpointService
from cloister.control.computes.sessions import Opener, Sessions
from cloister.control.computes.suspend import Suspender
from cloister.control.computes.touched import Inside
from cloister.control.computes.verifiers import Verifiers
from cloister.control.computes.wake import Waker
from cloister.control.consumption.meter import Meter
from cloister.control.consumption.service import ConsumptionService
from cloister.control.egress.service import EgressService
from cloister.control.egress.watch import EgressWatch
from cloister.control.incidents.service import Incidents
from cloister.control.jwks.keys import JwksKeys
from cloister.control.jwks.service import JwksService
from cloister.control.operations.engine import Engine
from cloister.control.organizations.offers import OfferService
from cloister.control.organizations.service import OrganizationService
from cloister.control.passkeys.proofs import Proofs
from cloister.control.passkeys.service import PasskeyService
from cloister.control.people.asking import Asks
from cloister.control.people.asking import Issuers as AskedIssuers
from cloister.control.people.issuers import IssuerService
from cloister.control.people.logins import LoginService
from cloister.control.people.sealing import LoginKeys
from cloister.control.projects import operations as project_operations
from cloister.control.projects.caretaker import ProjectCaretaker
from cloister.control.projects.engines import Engines
from cloister.control.projects.erasures import ErasureService, Seals
from cloister.control.projects.forgetting import ForgettingService
from cloister.control.projects.holds import HoldService
from cloister.control.projects.operations import Keys, ProjectsWorld
from cloister.control.projects.pool import VolumePool
from cloister.control.projects.retention import RetentionKeeper, RetentionService
from cloister.control.projects.service import ProjectService
from cloister.control.projects.statements import StatementService
from cloister.control.reencryption.keeper import ReencryptionKeeper
from cloister.control.reencryption.service import Means, ReencryptionService, VolumeKeys
from cloister.control.reviews.keeper import ReviewKeeper
from cloister.control.reviews.service import ReviewService
from cloister.control.roles import operations as role_operations
from cloister.control.roles.databases import DatabaseService
from cloister.control.roles.operations import RolesWorld
from cloister.control.roles.passwords import Vault
from cloister.control.roles.service import RoleService
from cloister.control.scim.service import ScimService
from cloister.control.service_accounts.keeper import ServiceAccountKeeper
from cloister.control.service_accounts.service import ServiceAccountService
from cloister.control.services import Control
from cloister.control.tags.service import TagService
from cloister.node.commands import AnyEvent
from cloister.trust.audit.segments import Former
from cloister.trust.audit.statements import Broker as StatementKeys
from cloister.trust.audit.statements import StatementLog
from cloister.trust.fetching import Fetcher, Reach

_log = logging.getLogger(__name__)

FIRST_COMPARISON_S: Final = 5.0
# Without the agent, clients of computes that run must still be let in.

WORKER: Final = "api"
# The name under which the engine takes up, after a restart, what this process held.


class KeyBroker(Keys, Broker, StatementKeys, Seals, VolumeKeys, Protocol):
    """All that is asked of it here. `trust.keys.client.KeyClient` is one."""


class ControlPlane:
    """`agent`, `opener` and `fetcher` are for tests; without them the node agent's socket, real sessions and the network are
    used."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        keys: KeyBroker,
        mock_key: Secret[bytes],
        control_key: Secret[bytes],
        clock: Clock,
        agent: Agent | None = None,
        opener: Opener | None = None,
        fetcher: Asks | None = None,
        directory_for: frozenset[Service] = frozenset({Service.GATEWAY}),
    ) -> None:
        self._client = (
            None
            if agent is not None
            else Client(
                settings.paths.agent_socket, events=AnyEvent, on_event=self.heard, on_connect=self.agent_connected
            )
        )
        agent = agent or self._client
        assert agent is not None

        self.engine = Engine(database, clock, worker=WORKER)
        self.gateways = Gateways(lambda: self.directory.connections)
        self.sessions = Sessions(opener)
        self.verifiers = Verifiers(
            self.sessions, tell=lambda endpoint_id: self.gateways.invalidate(endpoint_id=endpoint_id)
        )
        backoff = Backoff()
        self.runner = Runner(
            database, agent, sessions=self.sessions, gateways=self.gateways, clock=clock, backoff=backoff
        )
        statements = StatementLog(database, keys, Former(control_key))
        inside = Inside(database, statements)  # Of branches' own computes. Standbys are looked at by somebody else.
        self.suspender = Suspender(database, self.runner, self.sessions, self.gateways, inside)
        self.waker = Waker(database, self.engine, self.runner, self.sessions, self.verifiers)
        vault = Vault(control_key)
        branches_world = BranchesWorld(
            database, agent, self.runner, self.suspender, self.sessions, self.gateways, vault
        )
        self.standbys = Standbys(
            branches_world,
            clock=clock,
            suspend_timeout_s=settings.suspend_timeout_s,
            interval_s=settings.idle_check_interval_s,
            inside=Inside(database, statements),
        )
        # Two: a few projects, whose members say where their keys are, could take every turn, and nobody could log in.
        reach = Reach(AllowList.parse(settings.jwks_networks))
        for_tokens = fetcher or Fetcher(reach, authority=settings.jwks_authority)
        for_logins = fetcher or Fetcher(reach, authority=settings.jwks_authority)
        self.token_keys = JwksKeys(database, for_tokens, clock)
        recording_keys = KeyRing(keys, control_key)
        access_guard = AccessGuard(database, self.waker, recording_keys, clock)
        self.directory = DirectoryServer(
            settings.paths,
            database,
            agent,
            runner=self.runner,
            waker=self.waker,
            standbys=self.standbys,
            access=access_guard,
            verifiers=self.verifiers,
            token_keys=self.token_keys,
            mock_key=mock_key,
            statements=statements,
            clock=clock,
            allowed=directory_for,
        )
        self.directory.serve(self.gateways)
        self.access_keeper = AccessKeeper(database, self.sessions, access_guard, clock)
        self.review_keeper = ReviewKeeper(database, clock)
        self.retention_keeper = RetentionKeeper(database, keys)
        self.service_account_keeper = ServiceAccountKeeper(database, clock)
        self.reconciler = Reconciler(
            database,
            agent,
            runner=self.runner,
            suspender=self.suspender,
            sessions=self.sessions,
            inside=inside,
            ages=AgeWatch(database, clock),
            backoff=backoff,
            clock=clock,
            suspend_timeout_s=settings.suspend_timeout_s,
            interval_s=settings.idle_check_interval_s,
        )
        self._engines = Engines(agent)
        self.pool = VolumePool(
            database, agent, keys, self._engines, ready=settings.pool_volumes, size_bytes=settings.volume_bytes
        )
        for role_machine in role_operations.MACHINES:
            self.engine.register(role_machine, RolesWorld(database, self.waker))
        for compute_machine in compute_operations.MACHINES:
            self.engine.register(
                compute_machine,
                ComputesWorld(database, self.runner, self.suspender, self.sessions, self.gateways, self.standbys),
            )
        for project_machine in project_operations.MACHINES:
            self.engine.register(project_machine, ProjectsWorld(database, agent, keys, self.runner, self.suspender))
        for branch_machine in branch_operations.MACHINES:
            self.engine.register(branch_machine, branches_world)

        self.backup_keeper = BackupKeeper(branches_world, keys, clock)
        self.parting = Parting(self.backup_keeper, database, agent, clock)
        for backup_machine in backup_operations.MACHINES:
            self.engine.register(
                backup_machine, BackupsWorld(database, agent, keys, self.runner, self.backup_keeper.is_back)
            )

        self.egress = EgressWatch(settings.paths, database)

        children, successions = Children(self.engine, vault, clock), Successions(self.engine, vault, clock)
        freshness = Freshness(database, self.sessions)
        branches = BranchService(
            database, self.engine, children, successions, freshness=freshness, gateways=self.gateways, clock=clock
        )
        snapshots = SnapshotService(database, self.engine, children, successions, freshness=freshness, clock=clock)

        self.caretaker = Caretaker(branches_world, self.engine, branches, snapshots, clock)
        self.platform_keeper = PlatformKeeper(
            database,
            agent,
            # An operator's own database has backups of its own.
            lambda: settings.database_url is None and self.backup_keeper.may_send,
            clock,
        )

        projects = ProjectService(
            database,
            self.engine,
            engines=self._engines,
            pool=self.pool,
            vault=vault,
            gateways=self.gateways,
            settings=settings,
            clock=clock,
        )
        self.project_caretaker = ProjectCaretaker(projects)
        means = Means(database, agent, keys, clock)
        self.reencryption_keeper = ReencryptionKeeper(means, self.suspender)
        endpoints = EndpointService(database, self.engine, self.gateways, clock)
        roles = RoleService(database, self.engine, vault)

        asked_issuers, login_keys = AskedIssuers(for_logins, clock), LoginKeys(control_key)

        self.control = Control(
            projects=projects,
            branches=branches,
            snapshots=snapshots,
            backups=BackupService(
                database, self.engine, children, agent, self.backup_keeper, freshness=freshness, clock=clock
            ),
            schemas=SchemaService(database, agent, self.waker, clock),
            endpoints=endpoints,
            roles=roles,
            databases=DatabaseService(database, self.engine),
            operations=self.engine,
            organizations=OrganizationService(database, clock),
            offers=OfferService(database, clock),
            issuers=IssuerService(database, asked_issuers, login_keys, clock),
            logins=LoginService(database, asked_issuers, login_keys, clock),
            scim=ScimService(database, clock),
            passkeys=PasskeyService(database, settings.domain, clock),
            proofs=Proofs(database, settings.domain, clock),
            jwks=JwksService(database, for_tokens, self.gateways, clock),
            statements=StatementService(database, gateways=self.gateways, log=statements, poke=self.reconciler.poke),
            erasures=ErasureService(database, keys, clock),
            forgettings=ForgettingService(database, clock),
            holds=HoldService(database, clock),
            retentions=RetentionService(database, clock),
            tags=TagService(database),
            maskings=MaskingService(database, self.engine),
            consents=ConsentService(database, clock),
            egress=EgressService(database, parse_allowed(settings.egress_allow), poke=self.egress.poke),
            access=AccessService(database, recording_keys, clock),
            reviews=ReviewService(database, clock),
            service_accounts=ServiceAccountService(database, clock),
            incidents=Incidents(
                database,
                self.engine,
                endpoints=endpoints,
                branches=branches,
                roles=roles,
                sessions=self.sessions,
                gateways=self.gateways,
            ),
            consumption=ConsumptionService(database),
            reencryptions=ReencryptionService(means, poke=self.reencryption_keeper.poke),
        )
        self.meter = Meter(database, clock)

    def heard(self, event: AnyEvent) -> None:
        """Something ended on the node."""
        self.reconciler.heard(event)
        self.standbys.poke()

    def agent_connected(self) -> None:
        """The node agent may have been restarted."""
        self._engines.forget()
        self.reconciler.connected()
        self.standbys.poke()

    async def run(
        self,
        stop: asyncio.Event,
        last_sending: asyncio.Event | None = None,
        tell: Callable[[Owed], None] = lambda _owed: None,
    ) -> None:
        """Serve gateways, run operations, reconcile and keep the pool, until told to stop. Computes run on, unless `last_sending` is set
        by then: the platform ends, there is a store, and what no backup has yet is sent; `tell` hears how far that is."""
        try:
            # Before anybody asks: after a power cut the rows name computes that are no more.
            async with asyncio.timeout(FIRST_COMPARISON_S):
                await self.reconciler.compare()
        except (CloisterError, TimeoutError) as error:
            _log.warning("the node was not compared yet: %s", error)
        except Exception:  # the reconciler's rounds go on whatever one meets, and so does what begins with one
            _log.exception("the node was not compared yet")
        await self.directory.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [
                    tasks.create_task(self.engine.run()),
                    tasks.create_task(self.reconciler.run()),
                    tasks.create_task(self.standbys.run()),
                    tasks.create_task(self.pool.run()),
                    tasks.create_task(self.caretaker.run()),
                    tasks.create_task(self.backup_keeper.run()),
                    tasks.create_task(self.platform_keeper.run()),
                    tasks.create_task(self.egress.run()),
                    tasks.create_task(self.project_caretaker.run()),
                    tasks.create_task(self.access_keeper.run()),
                    tasks.create_task(self.meter.run()),
                    tasks.create_task(self.review_keeper.run()),
                    tasks.create_task(self.retention_keeper.run()),
                    tasks.create_task(self.service_account_keeper.run()),
                    tasks.create_task(self.reencryption_keeper.run()),
                ]
                await stop.wait()
                for loop in loops:
                    loop.cancel()
            if last_sending is not None and last_sending.is_set():
                await self.parting.send(tell)
        finally:
            await self.directory.stop()
            await self.waker.close()
            await self.standbys.close()
            await self.sessions.close_all()
            await self.egress.close()
            if self._client is not None:
                await self._client.close()
