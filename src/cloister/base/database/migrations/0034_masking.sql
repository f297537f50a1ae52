-- Branches in which columns hold something else than in their parent (anonymized branches). docs/adr/0051-masked-branches.md has the reasons.
--
-- Such a branch has no data before it is masked, and afterwards none that is not its own: the database sees to both.

SET search_path = cloister, pg_catalog;

CREATE TABLE masking (
    branch_id       text PRIMARY KEY REFERENCES branch (id),
    rules           jsonb NOT NULL,                 -- [{database, schema, table, column, function | value}]
    state           text NOT NULL CHECK (state IN ('initialized', 'anonymizing', 'anonymized', 'error')),
    work            jsonb NOT NULL,                 -- what the operation that makes it is given besides
    message         text NOT NULL DEFAULT '',       -- why the last attempt failed
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    completed_at    timestamptz,
    started_by      uuid REFERENCES account (id)
);
GRANT SELECT, INSERT, UPDATE ON masking TO cloister_api;

-- What is masked stays so, and by the rules that it was masked by.
CREATE FUNCTION masking_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.branch_id <> OLD.branch_id OR OLD.state = 'anonymized' AND NEW IS DISTINCT FROM OLD
       OR OLD.state = 'anonymizing' AND NEW.rules <> OLD.rules OR NEW.state = 'anonymized' AND OLD.state <> 'anonymizing' THEN
        PERFORM refuse('a branch stays masked as it was', OLD.branch_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER masking_holds BEFORE UPDATE ON masking FOR EACH ROW EXECUTE FUNCTION masking_holds();

-- Its data is there when it is masked, and not before.
CREATE FUNCTION masked_timeline() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM masking JOIN branch ON branch.id = masking.branch_id
                WHERE (branch.timeline_id = NEW.id OR branch.id = NEW.branch_id) AND masking.state <> 'anonymized') THEN
        PERFORM refuse('the branch is not masked', NEW.id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER masked_timeline BEFORE UPDATE OF state ON timeline
    FOR EACH ROW WHEN (NEW.state = 'ready' AND OLD.state <> 'ready') EXECUTE FUNCTION masked_timeline();

-- It gets no other data than what it was: not its parent's, not a snapshot's of somebody else, not another branch's in its place.
CREATE FUNCTION masked_branch() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.timeline_id <> OLD.timeline_id AND EXISTS (SELECT FROM masking WHERE branch_id = NEW.id) AND NOT EXISTS (
            SELECT FROM timeline made JOIN timeline source ON source.id = made.source_id
             WHERE made.id = NEW.timeline_id
               AND (source.branch_id = NEW.id OR source.id = OLD.timeline_id
                    OR EXISTS (SELECT FROM snapshot WHERE snapshot.timeline_id = source.id AND snapshot.branch_id = NEW.id))) THEN
        PERFORM refuse('cannot reset masked branch', NEW.id);
    END IF;
    IF OLD.replaces_id IS NOT NULL AND NEW.replaces_id IS NULL
       AND EXISTS (SELECT FROM masking WHERE branch_id = OLD.replaces_id) THEN
        PERFORM refuse('cannot reset masked branch', OLD.replaces_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER masked_branch BEFORE UPDATE OF timeline_id, replaces_id ON branch
    FOR EACH ROW EXECUTE FUNCTION masked_branch();

ALTER TABLE masking ENABLE ALWAYS TRIGGER masking_holds;
ALTER TABLE timeline ENABLE ALWAYS TRIGGER masked_timeline;
ALTER TABLE branch ENABLE ALWAYS TRIGGER masked_branch;
REVOKE ALL ON FUNCTION masking_holds(), masked_timeline(), masked_branch() FROM PUBLIC;

CREATE OR REPLACE FUNCTION destroys(machine text) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE
        WHEN machine IN ('create_project', 'delete_project') THEN 'project'
        WHEN machine IN ('create_branch', 'anonymize_branch', 'restore_branch', 'delete_branch', 'purge_branch',
                         'finalize_restore', 'delete_endpoint') THEN 'branch'
        WHEN machine IN ('take_snapshot', 'delete_timeline') THEN 'timeline'
    END;
