-- Key sets of other issuers, whose tokens open a project's databases over HTTPS.

SET search_path = cloister, pg_catalog;

-- The keys are public, as they were fetched last; kept, so that a token can be looked at without asking its issuer first.
CREATE TABLE jwks (
    id              uuid PRIMARY KEY,
    project_id      text NOT NULL REFERENCES project (id),
    branch_id       text REFERENCES branch (id),    -- NULL: every branch of the project
    url             text NOT NULL,
    provider_name   text NOT NULL,
    audience        text,
    issuer          text,
    role_names      text[] NOT NULL,
    keys            jsonb NOT NULL,                 -- protocol/tokens: VerifyingKey
    fetched_at      timestamptz NOT NULL,           -- when they were what the issuer published
    tried_at        timestamptz NOT NULL,           -- when it was asked last, whatever came of it
    created_by      uuid REFERENCES account (id),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX jwks_of_project ON jwks (project_id);
GRANT SELECT, INSERT, UPDATE, DELETE ON jwks TO cloister_api;
