-- What of the projects' histories lies in the operator's store, and how far. docs/adr/0056-backups.md has the reasons.
--
-- The rows are a catalogue: what they speak of lies in a bucket, locked, and the agent finds it there without them. What they must not
-- do is forget it too soon, or take a copy of a protected branch's data for another one's.

SET search_path = cloister, pg_catalog;

-- A place that a timeline can be brought back from, with all WAL that was sent after it.
CREATE TABLE backup_base (
    timeline_id     text NOT NULL REFERENCES timeline (id),
    name            text NOT NULL CHECK (name ~ '^[0-9A-F]{16}$'),     -- of the snapshot: where its recovery starts
    project_id      text NOT NULL,                          -- the timeline's, as the next: see the trigger
    is_protected    boolean NOT NULL,                       -- its branch was, at one of the times when this was sent
    start_lsn       pg_lsn NOT NULL,
    stop_lsn        pg_lsn NOT NULL,                        -- from here on it can be recovered to
    moment          timestamptz NOT NULL,
    bytes           bigint NOT NULL CHECK (bytes >= 0),
    new_bytes       bigint NOT NULL CHECK (new_bytes >= 0), -- that were not in the store already
    chunks          bigint NOT NULL CHECK (chunks >= 0),
    sent_at         timestamptz NOT NULL DEFAULT now(),
    locked_until    timestamptz NOT NULL,
    seen_at         timestamptz,                            -- read back, and opened
    seen_chunks     bigint NOT NULL DEFAULT 0 CHECK (seen_chunks >= 0),
    damaged         bigint NOT NULL DEFAULT 0 CHECK (damaged >= 0),
    PRIMARY KEY (timeline_id, name)
);
CREATE INDEX backup_base_of_project ON backup_base (project_id, moment);

-- How far a timeline's WAL was sent, and what stands in the way.
CREATE TABLE backup_progress (
    timeline_id     text PRIMARY KEY REFERENCES timeline (id),
    since           timestamptz NOT NULL DEFAULT now(),     -- it is being looked after
    end_lsn         pg_lsn,
    moment          timestamptz,                            -- what was committed until then is in the store
    looked_at       timestamptz,                            -- the last look that sent all there was began then
    locked_until    timestamptz,
    is_broken       boolean NOT NULL DEFAULT false,         -- WAL is missing: what follows needs a new base
    wanted_at       timestamptz,                            -- somebody asked for a base, or to have one read back
    check_wanted_at timestamptz,
    failing         text NOT NULL DEFAULT '' CHECK (failing IN ('', 'WAL', 'base', 'check')),
    failures        integer NOT NULL DEFAULT 0 CHECK (failures >= 0),  -- in a row
    failing_since   timestamptz,
    problem         text NOT NULL DEFAULT '',
    late_told_at    timestamptz                             -- somebody was told that it is late
);

-- A project that is left out, by somebody's word.
CREATE TABLE backup_exception (
    project_id  text PRIMARY KEY REFERENCES project (id),
    reason      text NOT NULL CHECK (reason <> ''),
    asked_by    text NOT NULL CHECK (asked_by <> ''),
    asked_at    timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON backup_base, backup_progress TO cloister_api;
GRANT SELECT, INSERT (project_id, reason, asked_by), DELETE ON backup_exception TO cloister_api;

-- 1. Whose it is, is the timeline's to say, and whether that was protected, the branch's: neither is the caller's.
-- 2. A base that was of a protected branch once stays so.
-- 3. While its objects are locked, nobody forgets it, and its lock does not become shorter.
CREATE FUNCTION backup_base_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.locked_until > now() THEN
            PERFORM refuse('a backup is kept while it is locked', OLD.timeline_id);
        END IF;
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND ((NEW.timeline_id, NEW.name, NEW.start_lsn, NEW.stop_lsn, NEW.moment)
                             IS DISTINCT FROM (OLD.timeline_id, OLD.name, OLD.start_lsn, OLD.stop_lsn, OLD.moment)
                             OR NEW.locked_until < OLD.locked_until) THEN
        PERFORM refuse('a backup stays what it is', OLD.timeline_id);
    END IF;
    SELECT t.project_id, coalesce(b.is_protected, false) INTO STRICT NEW.project_id, NEW.is_protected
      FROM timeline t LEFT JOIN branch b ON b.id = t.branch_id WHERE t.id = NEW.timeline_id;
    IF TG_OP = 'UPDATE' THEN
        NEW.is_protected := NEW.is_protected OR OLD.is_protected;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER backup_base_holds BEFORE INSERT OR UPDATE OR DELETE ON backup_base
    FOR EACH ROW EXECUTE FUNCTION backup_base_holds();
ALTER TABLE backup_base ENABLE ALWAYS TRIGGER backup_base_holds;

-- A branch that is made of the backup of a protected one has none of its passwords, whoever submits the operation, and also when the
-- protection was taken off in between. That another person consents, `operation_consent` sees to: it looks at the timelines.
CREATE FUNCTION backup_scrubs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(NEW.input ->> 'scrubs', '') <> 'true' AND EXISTS (
            SELECT FROM timeline t LEFT JOIN branch b ON b.id = t.branch_id
             WHERE NEW.input -> 'recipe' -> 'sources' ? t.id
               AND (b.is_protected OR EXISTS (SELECT FROM backup_base o WHERE o.timeline_id = t.id AND o.is_protected))) THEN
        PERFORM refuse('cannot restore a backup of a protected branch with its passwords', coalesce(NEW.branch_id, NEW.project_id));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER backup_scrubs BEFORE INSERT OR UPDATE OF input ON operation
    FOR EACH ROW WHEN (NEW.input -> 'recipe' ->> 'is_backup' = 'true') EXECUTE FUNCTION backup_scrubs();
ALTER TABLE operation ENABLE ALWAYS TRIGGER backup_scrubs;

-- For how long a timeline's history is kept on the host, where its project wants `wanted` seconds: what was not sent yet is not given up
-- before it was, for seven days more at most, by when somebody was told and the volume is fuller than anybody asked for; and where
-- there is a store, an hour at least, or there would be nothing to send. In hours: the agent is told of every change.
CREATE FUNCTION kept_history(which text, wanted integer) RETURNS integer
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT coalesce(
        (SELECT greatest(wanted, 3600, least(wanted + 604800,
                    3600 * ceil(extract(epoch FROM now() - coalesce(s.moment, s.since)) / 3600)::integer))
           FROM backup_progress s JOIN timeline t ON t.id = s.timeline_id
          WHERE s.timeline_id = which
            AND NOT EXISTS (SELECT FROM backup_exception x WHERE x.project_id = t.project_id)
            AND NOT EXISTS (SELECT FROM endpoint e WHERE e.branch_id = t.branch_id AND e.socket_dir IS NULL
                               AND s.looked_at > e.suspended_at)),
        wanted)
$$;

REVOKE ALL ON FUNCTION backup_base_holds(), backup_scrubs(), kept_history(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kept_history(text, integer) TO cloister_api;
