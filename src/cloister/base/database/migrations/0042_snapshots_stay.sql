-- As in 0028; and whose data a snapshot is stays what it was as well. By its branch is decided whether copies of it need another
-- person's consent (0036), so moved to another branch it could be copied without one.

SET search_path = cloister, pg_catalog;

CREATE OR REPLACE FUNCTION snapshot_tagging() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.tags := joined_tags(NEW.tags, (SELECT tags FROM branch WHERE id = NEW.branch_id));
    ELSIF NOT kept_tags(OLD.tags) <@ NEW.tags
       OR (NEW.timeline_id, NEW.branch_id, NEW.project_id) <> (OLD.timeline_id, OLD.branch_id, OLD.project_id) THEN
        PERFORM refuse('a snapshot stays what it was', OLD.id);
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER snapshot_tagging
    BEFORE INSERT OR UPDATE OF id, tags, timeline_id, branch_id, project_id ON snapshot
    FOR EACH ROW EXECUTE FUNCTION snapshot_tagging();
ALTER TABLE snapshot ENABLE ALWAYS TRIGGER snapshot_tagging;
