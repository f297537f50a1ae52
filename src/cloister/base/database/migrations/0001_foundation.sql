-- The control database, first form. Every table of one platform, in the order in which they refer to each other.
-- Ids are minted by us (base/ids.py). Times are timestamptz. Nothing here is a secret in clear: API keys are digests,
-- role passwords are SCRAM verifiers, volume keys are wrapped.

SET search_path = cloister, pg_catalog;

-- Database roles of our processes; peer authentication maps the Unix users of base/identities.py to them.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloister_api') THEN CREATE ROLE cloister_api LOGIN; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloister_keys') THEN CREATE ROLE cloister_keys LOGIN; END IF;
END $$;
GRANT USAGE ON SCHEMA cloister TO cloister_api, cloister_keys;

CREATE TABLE organization (
    id          text PRIMARY KEY,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- A person or a service that holds API keys.
CREATE TABLE account (
    id          uuid PRIMARY KEY,
    email       text NOT NULL UNIQUE,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE membership (
    org_id      text NOT NULL REFERENCES organization (id),
    account_id  uuid NOT NULL REFERENCES account (id),
    role        text NOT NULL CHECK (role IN ('admin', 'member')),
    PRIMARY KEY (org_id, account_id)
);

CREATE TABLE api_key (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    digest          bytea NOT NULL UNIQUE,          -- SHA-256 of the key; it has 381 bits, so no salt is needed
    account_id      uuid NOT NULL REFERENCES account (id),
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_used_at    timestamptz,
    last_used_from  text,
    revoked_at      timestamptz
);

-- A volume exists before its project: the pool keeps some formatted under ids minted ahead.
CREATE TABLE volume (
    project_id  text PRIMARY KEY,
    branch_id   text NOT NULL UNIQUE,               -- the root branch to be, and
    timeline_id text NOT NULL UNIQUE,               -- where its cluster lies
    uid         integer NOT NULL UNIQUE,            -- the Unix uid of the project's computes
    pg_version  integer NOT NULL,
    size_bytes  bigint NOT NULL,
    state       text NOT NULL CHECK (state IN ('formatting', 'ready', 'taken', 'deleting', 'deleted')),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX volume_pool ON volume (created_at) WHERE state IN ('formatting', 'ready');
CREATE SEQUENCE compute_uid AS integer MINVALUE 1900000000 MAXVALUE 1999999999;

CREATE TABLE project (
    id                          text PRIMARY KEY REFERENCES volume (project_id),
    org_id                      text NOT NULL REFERENCES organization (id),
    owner_id                    uuid NOT NULL REFERENCES account (id),
    name                        text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 256),
    region_id                   text NOT NULL,
    pg_version                  integer NOT NULL,
    store_passwords             boolean NOT NULL,
    history_retention_seconds   integer NOT NULL DEFAULT 86400,
    settings                    jsonb NOT NULL DEFAULT '{}',    -- Neon's project.settings: allowed_ips, quota, …
    default_endpoint_settings   jsonb NOT NULL DEFAULT '{}',
    created_at                  timestamptz NOT NULL DEFAULT now(),
    updated_at                  timestamptz NOT NULL DEFAULT now(),
    deleted_at                  timestamptz
);
CREATE INDEX project_list ON project (created_at DESC, id) WHERE deleted_at IS NULL;

-- A line of the project's history that clients work on. Its data is a timeline; resetting or restoring it gives it
-- another one, so that what it was stays as it was until nobody can ask for it any more.
CREATE TABLE branch (
    id              text PRIMARY KEY,
    project_id      text NOT NULL REFERENCES project (id),
    parent_id       text REFERENCES branch (id),
    parent_lsn      text,                           -- where it left its parent, once known
    parent_timestamp timestamptz,
    init_source     text NOT NULL DEFAULT 'parent-data' CHECK (init_source IN ('parent-data', 'schema-only')),
    timeline_id     text NOT NULL,
    name            text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 256),
    is_default      boolean NOT NULL,
    is_protected    boolean NOT NULL DEFAULT false,
    state           text NOT NULL CHECK (state IN ('init', 'ready', 'archived')),
    expires_at      timestamptz,
    ttl_interval_seconds integer,                   -- from the last creation or reset to expires_at, as asked for
    backup_schedule jsonb NOT NULL DEFAULT '[]',    -- Neon's schedule items
    scheduled_at    timestamptz,                    -- when that was last set: what was due before is not owed
    replaces_id     text REFERENCES branch (id),    -- restored from a snapshot, to take this one's place when finalized
    created_by      uuid REFERENCES account (id),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz,                    -- recoverable for a while
    purged_at       timestamptz                     -- its data is gone
);
CREATE UNIQUE INDEX branch_name ON branch (project_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX branch_one_default ON branch (project_id) WHERE is_default AND deleted_at IS NULL;

CREATE INDEX branch_children ON branch (parent_id) WHERE deleted_at IS NULL;

-- A cluster in a project's volume, with the history it can be taken back in. What a branch was before it was reset or
-- restored, and what a named snapshot holds, are timelines too.
CREATE TABLE timeline (
    id          text PRIMARY KEY,
    project_id  text NOT NULL REFERENCES volume (project_id),
    branch_id   text REFERENCES branch (id),        -- whose it is or was; NULL: a snapshot's
    source_id   text REFERENCES timeline (id),      -- what it was made from
    state       text NOT NULL CHECK (state IN ('making', 'ready', 'deleting', 'deleted')),
    began_at    timestamptz NOT NULL DEFAULT now(), -- the branch lived on it from here
    ended_at    timestamptz,                        -- to here; NULL: it does
    logical_bytes bigint,                           -- as the agent last said
    unique_bytes bigint,
    history_bytes bigint,
    measured_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX timeline_of_branch ON timeline (branch_id, began_at);
CREATE UNIQUE INDEX timeline_one_current ON timeline (branch_id)
    WHERE branch_id IS NOT NULL AND ended_at IS NULL AND state IN ('making', 'ready');
ALTER TABLE branch ADD FOREIGN KEY (timeline_id) REFERENCES timeline (id) DEFERRABLE INITIALLY DEFERRED;

-- A named moment that is kept until it is deleted or expires.
CREATE TABLE snapshot (
    id          text PRIMARY KEY,
    project_id  text NOT NULL REFERENCES project (id),
    branch_id   text NOT NULL REFERENCES branch (id),   -- what it was taken of
    timeline_id text NOT NULL REFERENCES timeline (id),
    name        text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 256),
    is_manual   boolean NOT NULL,                       -- false: the schedule took it
    lsn         text,
    taken_at    timestamptz NOT NULL,
    expires_at  timestamptz,
    created_by  uuid REFERENCES account (id),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz
);
CREATE INDEX snapshot_of_project ON snapshot (project_id, created_at DESC) WHERE deleted_at IS NULL;

-- Neon's endpoint. The process that serves it is a compute.
CREATE TABLE endpoint (
    id                          text PRIMARY KEY,
    project_id                  text NOT NULL REFERENCES project (id),
    branch_id                   text NOT NULL REFERENCES branch (id),
    type                        text NOT NULL CHECK (type IN ('read_write', 'read_only')),
    min_cu                      real NOT NULL,
    max_cu                      real NOT NULL CHECK (max_cu >= min_cu),
    suspend_timeout_seconds     integer NOT NULL DEFAULT 0,     -- 0 the platform's default, -1 never
    pg_settings                 jsonb NOT NULL DEFAULT '{}',
    is_disabled                 boolean NOT NULL DEFAULT false,
    desired                     text NOT NULL DEFAULT 'idle' CHECK (desired IN ('active', 'idle')),
    state                       text NOT NULL DEFAULT 'init' CHECK (state IN ('init', 'active', 'idle')),
    generation                  bigint NOT NULL DEFAULT 0,      -- of the running or last compute
    socket_dir                  text,                           -- of the running compute
    verifiers_at                timestamptz,                    -- when roles were last read from its pg_authid
    is_clean                    boolean NOT NULL DEFAULT true,  -- false while it runs: a crash leaves it so
    started_at                  timestamptz,
    last_active_at              timestamptz,
    suspended_at                timestamptz,
    created_at                  timestamptz NOT NULL DEFAULT now(),
    updated_at                  timestamptz NOT NULL DEFAULT now(),
    deleted_at                  timestamptz
);
CREATE UNIQUE INDEX endpoint_one_writer ON endpoint (branch_id) WHERE type = 'read_write' AND deleted_at IS NULL;
CREATE INDEX endpoint_of_project ON endpoint (project_id) WHERE deleted_at IS NULL;

-- What a branch's roles and databases were when its catalog was last read (at suspend, after every change of ours).
CREATE TABLE pg_role (
    branch_id       text NOT NULL REFERENCES branch (id),
    name            text NOT NULL,
    verifier        text,                           -- SCRAM-SHA-256$…; NULL: cannot log in
    pending_verifier text,                          -- asked for through the API, not yet in pg_authid
    can_login       boolean NOT NULL,
    valid_until     timestamptz,
    password        bytea,                          -- encrypted, only with the project's store_passwords
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (branch_id, name)
);

CREATE TABLE pg_database (
    id          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    branch_id   text NOT NULL REFERENCES branch (id),
    name        text NOT NULL,
    owner_name  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (branch_id, name)
);

CREATE TABLE operation (
    id              text PRIMARY KEY,
    number          bigint GENERATED ALWAYS AS IDENTITY UNIQUE, -- the order of creation
    project_id      text NOT NULL,
    branch_id       text,
    endpoint_id     text,
    action          text NOT NULL,                  -- Neon's word, shown to clients
    machine         text NOT NULL,                  -- which step machine runs it
    status          text NOT NULL CHECK (status IN ('scheduling', 'running', 'finished', 'failed', 'error',
                                                    'cancelling', 'cancelled', 'skipped')),
    step            text NOT NULL,                  -- where it is; the machine's step names
    is_undoing      boolean NOT NULL DEFAULT false,
    input           jsonb NOT NULL,                 -- fixed at creation, ids and random choices included; no secrets
    facts           jsonb NOT NULL DEFAULT '{}',    -- what steps learned; no secrets
    resource        text NOT NULL,                  -- 'project:…' or 'endpoint:…'
    holds_resource  boolean NOT NULL,               -- at the head of the resource's queue: only such a row may run
    after_id        text REFERENCES operation (id), -- not before that one has finished
    failures_count  integer NOT NULL DEFAULT 0,
    run_at          timestamptz NOT NULL,           -- 'infinity' until the one before it has finished
    deadline_at     timestamptz NOT NULL,
    lease           bigint NOT NULL DEFAULT 0,      -- fencing token: grows with every claim and every commit
    leased_until    timestamptz NOT NULL DEFAULT '-infinity',
    worker          text NOT NULL DEFAULT '',       -- who holds the lease
    wakes           bigint NOT NULL DEFAULT 0,      -- grows with every signal
    error           text,                           -- public: clients see it
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    CHECK (NOT holds_resource OR status IN ('scheduling', 'running', 'cancelling'))
);
-- Two operations at once on one resource are a conflict that the database itself reports (HTTP 423).
CREATE UNIQUE INDEX operation_one_at_a_time ON operation (resource) WHERE holds_resource;
CREATE INDEX operation_due ON operation (run_at) WHERE holds_resource;
CREATE INDEX operation_queue ON operation (resource, number) WHERE status = 'scheduling' AND NOT holds_resource;
CREATE INDEX operation_followers ON operation (after_id) WHERE status = 'scheduling' AND after_id IS NOT NULL;
CREATE INDEX operation_of_project ON operation (project_id, number DESC);

-- Answers kept for `Idempotency-Key`: the same key and request get the same answer for a day.
CREATE TABLE idempotent_answer (
    account_id      uuid NOT NULL REFERENCES account (id),
    key             text NOT NULL,
    request_digest  bytea NOT NULL,
    status          integer,                        -- NULL while the first request is still under way
    body            bytea,                          -- encrypted: it may hold a password shown once
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, key)
);

CREATE TABLE wrapped_key (
    project_id      text NOT NULL,
    purpose         text NOT NULL,
    version         integer NOT NULL,
    provider        text NOT NULL,
    root_version    text NOT NULL,                  -- which root key wrapped it, in the provider's words
    state           text NOT NULL CHECK (state IN ('enabled', 'disabled', 'destroyed')),
    wrapped         bytea,                          -- NULL once destroyed
    created_at      timestamptz NOT NULL DEFAULT now(),
    destroyed_at    timestamptz,
    PRIMARY KEY (project_id, purpose, version),
    CHECK ((wrapped IS NULL) = (state = 'destroyed'))
);

-- The audit log: a hash chain. `body` is the event as JSON, byte for byte as it was hashed; the columns after it are
-- derived from it, so that they cannot be changed apart.
CREATE TABLE audit_event (
    seq         bigint PRIMARY KEY,
    body        text NOT NULL,
    hash        bytea NOT NULL,                     -- SHA-256(previous hash ‖ seq as 8 bytes ‖ body)
    at          text GENERATED ALWAYS AS (body::jsonb ->> 'at') STORED,
    action      text GENERATED ALWAYS AS (body::jsonb ->> 'action') STORED,
    project_id  text GENERATED ALWAYS AS (body::jsonb ->> 'project_id') STORED,
    actor       text GENERATED ALWAYS AS (body::jsonb ->> 'actor') STORED
);
CREATE INDEX audit_of_project ON audit_event (project_id, seq DESC);
CREATE INDEX audit_of_action ON audit_event (action, seq DESC);

CREATE TABLE audit_head (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),    -- one row
    seq     bigint NOT NULL,
    hash    bytea NOT NULL
);
INSERT INTO audit_head (seq, hash) VALUES (0, sha256('cloister audit log 1'));

-- The one way to write the log. Takes the head's row lock until the caller's transaction ends, so the order of the chain
-- is the order of commits, and an event of a transaction that rolled back was never there. pg_temp stands last in the
-- search path: standing first, as it does unless named, it would let a caller's temporary table take the log's place, and
-- a trigger on it would run as the owner.
CREATE FUNCTION audit_append(VARIADIC bodies text[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    head  audit_head%ROWTYPE;
    body  text;
BEGIN
    SELECT * INTO STRICT head FROM audit_head FOR UPDATE;
    FOREACH body IN ARRAY bodies LOOP
        head.seq  := head.seq + 1;
        head.hash := sha256(head.hash || int8send(head.seq) || convert_to(body, 'UTF8'));
        INSERT INTO audit_event (seq, body, hash) VALUES (head.seq, body, head.hash);
    END LOOP;
    UPDATE audit_head SET seq = head.seq, hash = head.hash;
    RETURN head.seq;
END $$;
REVOKE ALL ON FUNCTION audit_append(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_append(text[]) TO cloister_api, cloister_keys;

-- Least privilege: the log can be appended to and read, never changed; wrapped keys belong to the broker alone.
GRANT SELECT, INSERT, UPDATE, DELETE ON organization, account, membership, api_key, volume, project, branch, timeline,
    snapshot, endpoint,
    pg_role, pg_database, operation, idempotent_answer TO cloister_api;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA cloister TO cloister_api;
GRANT SELECT ON audit_event, audit_head TO cloister_api;
GRANT SELECT, INSERT, UPDATE ON wrapped_key TO cloister_keys;
GRANT SELECT ON volume TO cloister_keys;
GRANT SELECT ON migration TO cloister_api, cloister_keys;
