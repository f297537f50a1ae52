-- What the sentinel found, whom it told, and what the operator put on hold because of it (docs/adr/0023-sentinel.md).

SET search_path = cloister, pg_catalog;

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloister_sentinel') THEN CREATE ROLE cloister_sentinel LOGIN; END IF;
END $$;
GRANT USAGE ON SCHEMA cloister TO cloister_sentinel;
GRANT SELECT ON audit_event, audit_head, migration TO cloister_sentinel;

CREATE TABLE finding (
    id              text PRIMARY KEY,
    rule            text NOT NULL,
    level           text NOT NULL CHECK (level IN ('low', 'medium', 'high', 'critical')),
    title           text NOT NULL,
    summary         text NOT NULL,                  -- of the newest alarm
    response        text NOT NULL,
    fingerprint     text NOT NULL,                  -- alarms with the same are one finding, while it is not resolved
    subject         jsonb NOT NULL,                 -- the ids, role and address it is about
    state           text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'acknowledged', 'resolved')),
    is_test         boolean NOT NULL DEFAULT false,
    run             text NOT NULL DEFAULT '',       -- of the self-test that raised it
    alarms          bigint NOT NULL DEFAULT 1,
    first_seq       bigint NOT NULL,                -- of the events that completed the first and the newest alarm
    last_seq        bigint NOT NULL,
    first_at        text NOT NULL,
    last_at         text NOT NULL,
    raised_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    escalated_at    timestamptz,
    changed_by      text NOT NULL DEFAULT '',
    note            text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX finding_alive ON finding (fingerprint) WHERE state <> 'resolved';
CREATE INDEX finding_newest ON finding (raised_at DESC, id);
CREATE INDEX finding_of_rule ON finding (rule) WHERE state <> 'resolved';
CREATE INDEX finding_of_run ON finding (run) WHERE run <> '';

-- The spool. Written in the transaction that raises the finding; a row is done when the channel has taken it.
CREATE TABLE alert_delivery (
    id              bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    finding_id      text NOT NULL REFERENCES finding (id) ON DELETE CASCADE,
    channel         text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('raised', 'escalated')),
    attempts        int NOT NULL DEFAULT 0,
    next_at         timestamptz NOT NULL DEFAULT now(),
    delivered_at    timestamptz,
    given_up_at     timestamptz,
    error           text NOT NULL DEFAULT ''
);
CREATE INDEX alert_due ON alert_delivery (next_at) WHERE delivered_at IS NULL AND given_up_at IS NULL;
CREATE INDEX alert_of_finding ON alert_delivery (finding_id);

CREATE TABLE sentinel (
    is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),    -- one row
    seq         bigint NOT NULL,                    -- the last event that `memory` knows
    hash        bytea NOT NULL,                     -- of that event: where the chain must go on
    memory      bytea NOT NULL,
    beat_seq    bigint NOT NULL,                    -- the last event looked at
    beat_at     timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON finding, alert_delivery, sentinel TO cloister_sentinel;
GRANT SELECT ON finding, alert_delivery, sentinel TO cloister_api;
GRANT UPDATE (state, changed_by, note) ON finding TO cloister_api;

-- Held by the operator: nobody is let in, and no compute is started, whatever the tenant's own settings say.
CREATE TABLE hold (
    project_id  text NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    endpoint_id text NOT NULL DEFAULT '',           -- '': every endpoint of the project
    role        text NOT NULL DEFAULT '',           -- '': every role
    finding_id  text NOT NULL DEFAULT '',
    held_by     text NOT NULL,
    held_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, endpoint_id, role)
);
GRANT SELECT, INSERT, DELETE ON hold TO cloister_api;
