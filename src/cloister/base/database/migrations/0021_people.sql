-- People who log in at an issuer of their organization's, and what their groups there give them here. docs/people.md explains;
-- control/people decides.

SET search_path = cloister, pg_catalog;

CREATE TABLE issuer (
    id              uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9-]{0,31}$'),
    url             text NOT NULL UNIQUE,
    client_id       text NOT NULL,
    client_secret   bytea,                          -- sealed; none for a public client
    domains         text[] NOT NULL,                -- whose addresses it may speak for; empty: those that it verified
    groups_claim    text NOT NULL,
    operators       text,                           -- the group that runs the platform
    session_s       integer NOT NULL CHECK (session_s BETWEEN 300 AND 43200),
    created_at      timestamptz NOT NULL
);
GRANT SELECT, INSERT, DELETE ON issuer TO cloister_api;

-- Somebody, as an issuer knows them. An account has one identity at an issuer: who comes with its address and another subject
-- is somebody else.
CREATE TABLE identity (
    issuer_id       uuid NOT NULL REFERENCES issuer (id) ON DELETE CASCADE,
    subject         text NOT NULL,
    account_id      uuid NOT NULL REFERENCES account (id),
    is_operator     boolean NOT NULL DEFAULT false, -- by their groups, when they last logged in
    created_at      timestamptz NOT NULL,
    last_login_at   timestamptz NOT NULL,
    PRIMARY KEY (issuer_id, subject),
    UNIQUE (issuer_id, account_id)
);
CREATE INDEX identity_of_account ON identity (account_id);
GRANT SELECT, INSERT, UPDATE ON identity TO cloister_api;

-- What a group of an issuer's gives in an organization: to whoever logs in, for as long as the session lasts.
CREATE TABLE issuer_group (
    id              uuid PRIMARY KEY,
    issuer_id       uuid NOT NULL REFERENCES issuer (id) ON DELETE CASCADE,
    name            text NOT NULL,
    org_id          text NOT NULL REFERENCES organization (id),
    role            text NOT NULL CHECK (role IN ('admin', 'editor', 'viewer', 'collaborator')),
    created_at      timestamptz NOT NULL,
    UNIQUE (org_id, issuer_id, name)
);
CREATE INDEX issuer_group_of_issuer ON issuer_group (issuer_id);
GRANT SELECT, INSERT, UPDATE, DELETE ON issuer_group TO cloister_api;

-- A login that was begun. The state is kept as its digest, and what must stay secret until it ends is derived from the state and
-- a key that is not here.
CREATE TABLE login (
    digest          bytea PRIMARY KEY,
    challenge       text NOT NULL,                  -- SHA-256 of what only the client knows that began it
    issuer_id       uuid NOT NULL REFERENCES issuer (id) ON DELETE CASCADE,
    redirect_uri    text NOT NULL,
    key_id          bigint REFERENCES api_key (id), -- with which somebody links an identity to its account; none: to log in
    expires_at      timestamptz NOT NULL
);
CREATE INDEX login_ends ON login (expires_at);
GRANT SELECT, INSERT, DELETE ON login TO cloister_api;

-- Given by groups; without an issuer, by hand. What groups give holds in sessions of the same issuer alone.
ALTER TABLE membership ADD COLUMN issuer_id uuid REFERENCES issuer (id) ON DELETE CASCADE;

-- A key that a login made.
ALTER TABLE api_key ADD COLUMN issuer_id uuid REFERENCES issuer (id) ON DELETE SET NULL;
ALTER TABLE api_key ADD CONSTRAINT sessions_end
    CHECK (issuer_id IS NULL OR (expires_at IS NOT NULL AND org_id IS NULL));
CREATE INDEX api_key_of_issuer ON api_key (issuer_id, account_id) WHERE revoked_at IS NULL;

-- Nothing of theirs opens anything.
ALTER TABLE account ADD COLUMN disabled_at timestamptz;
