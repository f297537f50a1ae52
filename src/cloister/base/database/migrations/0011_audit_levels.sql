-- What a project's clients executed, as far as its level asks for it. docs/adr/0024-statement-audit.md has the reasons.

SET search_path = cloister, pg_catalog;

ALTER TABLE project ADD COLUMN audit_level text NOT NULL DEFAULT 'off'
    CHECK (audit_level IN ('off', 'base', 'extended', 'full'));

-- Sealed when it is written, and never changed: the audit event `statements.seal` of the same transaction has the digest, and
-- the audit log has the event. Insert and read is all that the API may do.
CREATE TABLE statement_segment (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id  text NOT NULL REFERENCES project (id),
    statements  integer NOT NULL CHECK (statements > 0),
    body        bytea NOT NULL,                         -- nonce ‖ AES-256-GCM of the compressed records
    sealed_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX statement_segment_of_project ON statement_segment (project_id, id DESC);
GRANT SELECT, INSERT ON statement_segment TO cloister_api;
GRANT USAGE ON SEQUENCE statement_segment_id_seq TO cloister_api;
