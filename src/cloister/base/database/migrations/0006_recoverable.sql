-- Deleted projects that can be brought back. A project with `deleted_at` whose volume is still `taken` is one; once the volume
-- is `deleting` or `deleted` there is nothing left to bring back.
--
-- Protection needs no word here: the triggers of migration 0002 refuse `deleted_at` on a project with a protected branch,
-- whoever sets it and whichever way, and refuse to protect a branch of a deleted project. So none that is deleted has one.

SET search_path = cloister, pg_catalog;

CREATE INDEX project_deleted ON project (deleted_at) WHERE deleted_at IS NOT NULL;

-- Nobody gets a project back whose key or bytes are being destroyed, whichever statement says so. Whoever destroys holds the
-- project's row first (control/claims.py), so of a recovery and a destruction at the same moment the second sees the first.
CREATE FUNCTION project_recovery() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM volume WHERE project_id = OLD.id AND state = 'taken') THEN
        PERFORM refuse('cannot recover project whose data is destroyed', OLD.id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER project_recovery BEFORE UPDATE OF deleted_at ON project
    FOR EACH ROW WHEN (OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS NULL) EXECUTE FUNCTION project_recovery();
ALTER TABLE project ENABLE ALWAYS TRIGGER project_recovery;
REVOKE ALL ON FUNCTION project_recovery() FROM PUBLIC;
