-- The rows that say whose data lies on a timeline do not go, or turn away, before the tags that follow from them have gone (0028, by
-- `lift_tags`): a process that was taken over could else let data lose `pii` and `prod` by forgetting what it is of. No code of ours
-- deletes such rows.

SET search_path = cloister, pg_catalog;

CREATE FUNCTION timeline_keeps_tags() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    is_lost boolean;
BEGIN
    IF TG_OP = 'DELETE' THEN
        is_lost := tags_of_data(OLD.id) <> '{}';
    ELSE
        is_lost := (NEW.id <> OLD.id AND tags_of_data(OLD.id) <> '{}')
            OR (NEW.source_id IS DISTINCT FROM OLD.source_id AND tags_of_data(OLD.source_id) <> '{}')
            -- What a branch was goes to one that has its tags, also while another row still shows the same data.
            OR (NEW.branch_id IS DISTINCT FROM OLD.branch_id
                AND NOT coalesce((SELECT kept_tags(tags) FROM branch WHERE id = OLD.branch_id), '{}')
                        <@ coalesce((SELECT tags FROM branch WHERE id = NEW.branch_id), '{}'));
    END IF;
    IF is_lost THEN
        PERFORM refuse('cannot lose the tags pii and prod without a recorded reason', OLD.id);
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER timeline_keeps_tags BEFORE DELETE OR UPDATE OF id, branch_id, source_id ON timeline
    FOR EACH ROW EXECUTE FUNCTION timeline_keeps_tags();

-- A branch's row, or a snapshot's, may go where another says the same of the data.
CREATE FUNCTION data_keeps_tags() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF NOT kept_tags(OLD.tags) <@ tags_of_data(OLD.timeline_id) THEN
        PERFORM refuse('cannot lose the tags pii and prod without a recorded reason', OLD.id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER branch_keeps_tags AFTER DELETE ON branch FOR EACH ROW EXECUTE FUNCTION data_keeps_tags();
CREATE TRIGGER snapshot_keeps_tags AFTER DELETE ON snapshot FOR EACH ROW EXECUTE FUNCTION data_keeps_tags();

ALTER TABLE timeline ENABLE ALWAYS TRIGGER timeline_keeps_tags;
ALTER TABLE branch ENABLE ALWAYS TRIGGER branch_keeps_tags;
ALTER TABLE snapshot ENABLE ALWAYS TRIGGER snapshot_keeps_tags;

REVOKE ALL ON FUNCTION timeline_keeps_tags(), data_keeps_tags() FROM PUBLIC;
