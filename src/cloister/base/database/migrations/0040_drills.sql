-- Restores that are tried: when one of a timeline was last, and what came of it. docs/adr/0058-restore-drills.md has the reasons.

SET search_path = cloister, pg_catalog;

ALTER TABLE backup_progress
    ADD COLUMN try_wanted_at timestamptz,                   -- somebody asked for one
    ADD COLUMN tried_at timestamptz,
    ADD COLUMN tried text NOT NULL DEFAULT '' CHECK (tried IN ('', 'whole', 'damaged', 'no room')),
    ADD CHECK ((tried = '') = (tried_at IS NULL)),
    DROP CONSTRAINT backup_progress_failing_check,
    ADD CONSTRAINT backup_progress_failing_check CHECK (failing IN ('', 'WAL', 'base', 'check', 'restore'));
