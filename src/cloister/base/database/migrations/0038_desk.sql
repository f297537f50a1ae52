-- Who works on a finding, what they wrote down, and when it was acknowledged and resolved: for the clocks (docs/alerts.md).

SET search_path = cloister, pg_catalog;

ALTER TABLE finding
    ADD COLUMN assignee_id     uuid REFERENCES account (id) ON DELETE SET NULL,
    ADD COLUMN acknowledged_at timestamptz,            -- NULL, too, of what was resolved by itself, and before this migration
    ADD COLUMN resolved_at     timestamptz;

CREATE TABLE finding_note (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    finding_id  text NOT NULL REFERENCES finding (id) ON DELETE CASCADE,
    noted_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    noted_by    text NOT NULL,                         -- as the audit log names who calls
    text        text NOT NULL CHECK (length(text) BETWEEN 1 AND 500)
);
CREATE INDEX note_of_finding ON finding_note (finding_id);

-- Notes are added, and neither changed nor taken away.
GRANT UPDATE (assignee_id, acknowledged_at, resolved_at) ON finding TO cloister_api;
GRANT SELECT, INSERT ON finding_note TO cloister_api;
