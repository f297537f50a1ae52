-- Where each target of the audit log's export is in the log (docs/adr/0026-audit-export.md). The log itself is the spool.

SET search_path = cloister, pg_catalog;

CREATE TABLE audit_export (
    name            text PRIMARY KEY,
    seq             bigint NOT NULL CHECK (seq >= 0),   -- the last event that the target took
    sent_at         timestamptz,
    failures        bigint NOT NULL DEFAULT 0,          -- attempts since then
    failed_since    timestamptz,
    error           text NOT NULL DEFAULT ''
);
GRANT SELECT, INSERT, UPDATE ON audit_export TO cloister_sentinel;
