-- For how long what is recorded is kept: a class of it at a time, as its organization says. To keep it for longer takes one person
-- and holds at once; for shorter, two, and a week more. docs/adr/0040-retention.md has the reasons.

SET search_path = cloister, pg_catalog;

CREATE TABLE audit_retention (
    id          uuid PRIMARY KEY,
    org_id      text NOT NULL REFERENCES organization (id),
    class       text NOT NULL CHECK (class IN ('statements', 'recordings')),
    number      integer NOT NULL,                                   -- the order in which they were asked for
    days        integer CHECK (days BETWEEN 365 AND 36500),         -- NULL: without end
    reason      text NOT NULL CHECK (reason <> ''),
    asked_by    uuid NOT NULL REFERENCES account (id),
    asked_at    timestamptz NOT NULL DEFAULT now(),
    agreed_by   uuid REFERENCES account (id),
    agreed_at   timestamptz,
    holds_from  timestamptz,                                        -- NULL: shorter, and nobody agreed
    UNIQUE (org_id, class, number),
    CONSTRAINT not_by_oneself CHECK (agreed_by <> asked_by),
    CHECK ((agreed_by IS NULL) = (agreed_at IS NULL)),
    CHECK (agreed_at <= asked_at + interval '7 days'),
    CHECK (holds_from >= agreed_at + interval '7 days')
);
GRANT SELECT, INSERT (id, org_id, class, days, reason, asked_by), UPDATE (agreed_by) ON audit_retention TO cloister_api;

-- In days; NULL: without end. By the clock, and not by a transaction's beginning: one that has waited sees what was said since.
CREATE FUNCTION retention_of(whose text, what text) RETURNS integer
    LANGUAGE sql SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT days FROM audit_retention
     WHERE org_id = whose AND class = what AND holds_from <= clock_timestamp() ORDER BY number DESC LIMIT 1
$$;

CREATE FUNCTION is_shorter(days integer, than integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT coalesce(days < than, days IS NOT NULL AND than IS NULL)
$$;

-- Whether what was last written at `last` has been kept for as long as its project's organization says.
CREATE FUNCTION is_outlived(project text, what text, last timestamptz) RETURNS boolean
    LANGUAGE sql SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT coalesce(last < clock_timestamp() - make_interval(days => retention_of(
        (SELECT org_id FROM cloister.project WHERE id = is_outlived.project), what)), false)
$$;

CREATE FUNCTION audit_retention_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM refuse('how long a record is kept is history', OLD.id::text);
    END IF;
    PERFORM FROM organization WHERE id = NEW.org_id FOR NO KEY UPDATE;     -- one at a time
    IF TG_OP = 'INSERT' THEN
        IF num_nonnulls(NEW.agreed_by, NEW.agreed_at) > 0 THEN
            PERFORM refuse('a retention is agreed to after it was asked for', NEW.id::text);
        END IF;
        NEW.number := 1 + (SELECT coalesce(max(number), 0) FROM audit_retention WHERE org_id = NEW.org_id AND class = NEW.class);
        NEW.asked_at := clock_timestamp();
        NEW.holds_from := CASE WHEN is_shorter(NEW.days, retention_of(NEW.org_id, NEW.class)) THEN NULL
                               ELSE clock_timestamp() END;
        RETURN NEW;
    END IF;
    IF OLD.holds_from IS NOT NULL OR NEW.agreed_by IS NULL
       OR (NEW.id, NEW.org_id, NEW.class, NEW.number, NEW.reason, NEW.asked_by, NEW.asked_at) IS DISTINCT FROM
          (OLD.id, OLD.org_id, OLD.class, OLD.number, OLD.reason, OLD.asked_by, OLD.asked_at)
       OR NEW.days IS DISTINCT FROM OLD.days THEN
        PERFORM refuse('a retention is agreed to once, as it was asked for', OLD.id::text);
    END IF;
    IF EXISTS (SELECT FROM audit_retention
                WHERE org_id = OLD.org_id AND class = OLD.class AND number > OLD.number AND holds_from IS NOT NULL) THEN
        PERFORM refuse('another retention was set since this was asked for', OLD.id::text);
    END IF;
    NEW.agreed_at := clock_timestamp();
    NEW.holds_from := NEW.agreed_at + interval '7 days';
    RETURN NEW;
END $$;
CREATE TRIGGER audit_retention_holds BEFORE INSERT OR UPDATE OR DELETE ON audit_retention
    FOR EACH ROW EXECUTE FUNCTION audit_retention_holds();
ALTER TABLE audit_retention ENABLE ALWAYS TRIGGER audit_retention_holds;

-- A project keeps what it has of it: it is given to nobody with whom its record ends sooner, by what holds or was agreed on.
CREATE FUNCTION project_retention() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    what text;
BEGIN
    PERFORM FROM organization WHERE id = NEW.org_id FOR SHARE;
    FOREACH what IN ARRAY ARRAY['statements', 'recordings'] LOOP
        IF is_shorter(retention_of(NEW.org_id, what), retention_of(OLD.org_id, what))
           OR EXISTS (SELECT FROM audit_retention
                       WHERE org_id = NEW.org_id AND class = what AND holds_from > clock_timestamp()
                         AND is_shorter(days, retention_of(OLD.org_id, what))) THEN
            PERFORM refuse('what is recorded of this project would be kept for less long there', OLD.id);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER project_retention BEFORE UPDATE OF org_id ON project
    FOR EACH ROW WHEN (OLD.org_id <> NEW.org_id) EXECUTE FUNCTION project_retention();
ALTER TABLE project ENABLE ALWAYS TRIGGER project_retention;

-- As in 0019, and by its age: a month in which nothing was recorded for as long as its class is kept.
CREATE OR REPLACE FUNCTION statement_key_ends() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.wrapped IS NULL OR NEW.wrapped IS NOT NULL
       OR (NEW.project_id, NEW.generation, NEW.public, NEW.began_at) IS DISTINCT FROM
          (OLD.project_id, OLD.generation, OLD.public, OLD.began_at) THEN
        PERFORM refuse('a key of the statement log does not change', OLD.project_id);
    END IF;
    PERFORM FROM statement_erasure e
      WHERE e.project_id = OLD.project_id AND e.agreed_at = now()
        AND (e.up_to IS NULL OR NOT EXISTS (
                SELECT FROM statement_segment s
                 WHERE s.project_id = OLD.project_id AND s.generation = OLD.generation AND s.sealed_at >= e.up_to));
    IF NOT FOUND AND NOT is_outlived(OLD.project_id, 'statements', greatest(OLD.began_at, (
            SELECT max(sealed_at) FROM statement_segment s
             WHERE s.project_id = OLD.project_id AND s.generation = OLD.generation))) THEN
        PERFORM refuse('nobody agreed to erasing these statements', OLD.project_id);
    END IF;
    NEW.erased_at := now();
    RETURN NEW;
END $$;

-- A recording has a key of its own. It ends by its age, and no other way; its chunks, its extent and its head stay. How old it is,
-- this database says: when it ended, a process of ours does.
DROP TRIGGER recording_grows ON recording;
ALTER TABLE recording
    ADD COLUMN written_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN erased_at timestamptz,
    ALTER COLUMN wrapped_key DROP NOT NULL,
    ADD CHECK ((wrapped_key IS NULL) = (erased_at IS NOT NULL));
UPDATE recording SET written_at = coalesce(ended_at, now());
CREATE INDEX recording_kept ON recording (written_at) WHERE wrapped_key IS NOT NULL;

CREATE FUNCTION recording_written() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    NEW.written_at := now();
    RETURN NEW;
END $$;
CREATE FUNCTION recording_ends() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM refuse_if_held(OLD.project_id);
    IF NEW.wrapped_key IS NOT NULL OR OLD.ended_at IS NULL OR NOT is_outlived(OLD.project_id, 'recordings', OLD.written_at)
       OR to_jsonb(NEW) - '{wrapped_key,erased_at}'::text[] <> to_jsonb(OLD) - '{wrapped_key,erased_at}'::text[] THEN
        PERFORM refuse('a recording is kept for as long as its organization says', OLD.id::text);
    END IF;
    NEW.erased_at := now();
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION audit_retention_holds(), project_retention(), recording_written(), recording_ends() FROM PUBLIC;

CREATE TRIGGER recording_begins BEFORE INSERT ON recording
    FOR EACH ROW EXECUTE FUNCTION recording_grows();
CREATE TRIGGER recording_dated BEFORE INSERT ON recording
    FOR EACH ROW EXECUTE FUNCTION recording_written();
CREATE TRIGGER recording_ends BEFORE UPDATE ON recording
    FOR EACH ROW WHEN ((NEW.wrapped_key, NEW.erased_at) IS DISTINCT FROM (OLD.wrapped_key, OLD.erased_at))
    EXECUTE FUNCTION recording_ends();
CREATE TRIGGER recording_grows BEFORE UPDATE ON recording
    FOR EACH ROW WHEN ((NEW.wrapped_key, NEW.erased_at) IS NOT DISTINCT FROM (OLD.wrapped_key, OLD.erased_at))
    EXECUTE FUNCTION recording_grows();
CREATE TRIGGER recording_written BEFORE UPDATE ON recording
    FOR EACH ROW WHEN ((NEW.wrapped_key, NEW.erased_at) IS NOT DISTINCT FROM (OLD.wrapped_key, OLD.erased_at))
    EXECUTE FUNCTION recording_written();
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_begins;
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_dated;
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_ends;
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_grows;
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_written;
