-- Ways out of a project's computes, as somebody of the project allowed them. docs/egress.md explains.

SET search_path = cloister, pg_catalog;

CREATE TABLE egress_rule (
    id          uuid PRIMARY KEY,
    project_id  text NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    target      text NOT NULL CHECK (octet_length(target) <= 120),     -- base/egress.py
    ca_pem      text CHECK (octet_length(ca_pem) <= 65536),            -- who signs the other end's certificate; null: the host's authorities
    created_by  text NOT NULL,                                         -- an actor of the audit log: it may be a key
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, target)
);
GRANT SELECT, INSERT, DELETE ON egress_rule TO cloister_api;
