-- Tags of projects, branches and snapshots, and how they follow the data. docs/adr/0044-tags.md has the reasons.
--
-- `pii` and `prod` are kept: they come along wherever data comes to lie, by whichever statement, and go by `lift_tags` alone, which
-- writes the audit event in the same act. Every other tag comes along to a child and is then the child's own.
--
-- Children are made and tags are set under the project's lock (control/claims.py), so neither misses the other.

SET search_path = cloister, pg_catalog;

CREATE FUNCTION kept_tags(tags text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT tag FROM unnest(tags) AS tag WHERE tag IN ('pii', 'prod'))
$$;

CREATE FUNCTION joined_tags(tags text[], others text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT tag FROM (SELECT unnest(tags) AS tag UNION SELECT unnest(others)) AS joined
                  ORDER BY tag COLLATE "C")
$$;

-- As base/tags.py: each once, in order, none that is derived, and not too many.
CREATE FUNCTION are_tags(tags text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT coalesce(array_ndims(tags), 1) = 1 AND tags = joined_tags(tags, '{}')
       AND NOT EXISTS (SELECT FROM unnest(tags) AS tag
                        WHERE tag IS NULL OR tag !~ '^[a-z][a-z0-9._-]{0,31}$' OR tag = 'protected')
       AND cardinality(tags) - cardinality(kept_tags(tags)) <= 16
$$;

ALTER TABLE project ADD COLUMN tags text[] NOT NULL DEFAULT '{}' CHECK (are_tags(tags));
ALTER TABLE branch ADD COLUMN tags text[] NOT NULL DEFAULT '{}' CHECK (are_tags(tags));
ALTER TABLE snapshot ADD COLUMN tags text[] NOT NULL DEFAULT '{}' CHECK (are_tags(tags));   -- its branch's, when it was taken

-- What a decision about a project looks at: most projects have none, and are not to be slow for those that do.
CREATE INDEX branch_tagged ON branch (project_id) WHERE (tags <> '{}' OR is_protected) AND purged_at IS NULL;
CREATE INDEX snapshot_tagged ON snapshot (project_id) WHERE tags <> '{}' AND deleted_at IS NULL;
CREATE INDEX snapshot_of_timeline ON snapshot (timeline_id);

-- Every time that a kept tag was taken off. No process may write here: rows come from `lift_tags` alone, and a row can only lose such a
-- tag in the transaction that has one.
CREATE TABLE tag_lifting (
    subject     text NOT NULL,                  -- a branch's id, or a project's
    xid         xid8 NOT NULL,
    tags        text[] NOT NULL,
    audit_seq   bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, xid)
);

-- The kept tags of what lies, or lay, on a timeline.
CREATE FUNCTION tags_of_data(which text) RETURNS text[]
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT unnest(kept_tags(tags)) FROM branch WHERE timeline_id = which
                 UNION SELECT unnest(kept_tags(branch.tags))
                         FROM timeline JOIN branch ON branch.id = timeline.branch_id WHERE timeline.id = which
                 UNION SELECT unnest(kept_tags(tags)) FROM snapshot WHERE timeline_id = which)
$$;

CREATE FUNCTION require_lifted(subject text, before text[], after text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF NOT kept_tags(before) <@ joined_tags(after, (
            SELECT tags FROM tag_lifting AS it
             WHERE it.subject = require_lifted.subject AND xid = pg_current_xact_id())) THEN
        PERFORM refuse('cannot take off the tags pii and prod without a recorded reason', subject);
    END IF;
END $$;

CREATE FUNCTION branch_tagging() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    whose text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- A child is what its parent is; a row for what a branch was before it was restored, what that one is. Of a schema nothing
        -- comes along: no row is in it.
        IF NEW.init_source <> 'schema-only' THEN
            whose := coalesce((SELECT min(id) FROM branch WHERE timeline_id = NEW.timeline_id), NEW.parent_id);
            NEW.tags := joined_tags(NEW.tags, (SELECT tags FROM branch WHERE id = whose));
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.timeline_id <> OLD.timeline_id THEN                                      -- reset, restored
        NEW.tags := joined_tags(NEW.tags, tags_of_data(NEW.timeline_id)
                                          || tags_of_data((SELECT source_id FROM timeline WHERE id = NEW.timeline_id)));
    END IF;
    IF OLD.replaces_id IS NOT NULL AND NEW.replaces_id IS NULL THEN                 -- in the place of another
        NEW.tags := joined_tags(NEW.tags, kept_tags((SELECT tags FROM branch WHERE id = OLD.replaces_id)));
    END IF;
    PERFORM require_lifted(OLD.id, OLD.tags, NEW.tags);
    RETURN NEW;
END $$;
CREATE TRIGGER branch_tagging BEFORE INSERT OR UPDATE OF id, tags, timeline_id, replaces_id ON branch
    FOR EACH ROW EXECUTE FUNCTION branch_tagging();

-- A branch that is made of a snapshot, or of what was somewhere once, has a parent that need not be what its data is of.
CREATE FUNCTION timeline_tagging() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM branch WHERE id = NEW.branch_id
                     AND (init_source = 'schema-only' OR tags @> tags_of_data(NEW.source_id))) THEN
        PERFORM refuse('a branch has the tags of its data', NEW.branch_id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER timeline_tagging AFTER INSERT ON timeline
    FOR EACH ROW WHEN (NEW.branch_id IS NOT NULL AND NEW.source_id IS NOT NULL) EXECUTE FUNCTION timeline_tagging();

CREATE FUNCTION snapshot_tagging() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.tags := joined_tags(NEW.tags, (SELECT tags FROM branch WHERE id = NEW.branch_id));
    ELSIF NOT kept_tags(OLD.tags) <@ NEW.tags OR NEW.timeline_id <> OLD.timeline_id THEN
        PERFORM refuse('a snapshot stays what it was', OLD.id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER snapshot_tagging BEFORE INSERT OR UPDATE OF id, tags, timeline_id ON snapshot
    FOR EACH ROW EXECUTE FUNCTION snapshot_tagging();

CREATE FUNCTION project_tagging() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM require_lifted(OLD.id, OLD.tags, NEW.tags);
    RETURN NEW;
END $$;
CREATE TRIGGER project_tagging BEFORE UPDATE OF id, tags ON project
    FOR EACH ROW EXECUTE FUNCTION project_tagging();

ALTER TABLE branch ENABLE ALWAYS TRIGGER branch_tagging;
ALTER TABLE timeline ENABLE ALWAYS TRIGGER timeline_tagging;
ALTER TABLE snapshot ENABLE ALWAYS TRIGGER snapshot_tagging;
ALTER TABLE project ENABLE ALWAYS TRIGGER project_tagging;

-- Takes kept tags off a branch, or (NULL) off the project itself. `event` and `personal` are the texts of the audit event
-- (trust/audit/events.py): it must say who, what and why, and is appended here. Whether the caller may is the caller's to have decided.
CREATE FUNCTION lift_tags(project text, branch text, lifted text[], event text, personal text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    told jsonb := event::jsonb;
BEGIN
    IF told ->> 'action' IS DISTINCT FROM 'tag.lift' OR told ->> 'project_id' IS DISTINCT FROM lift_tags.project
       OR told ->> 'branch_id' IS DISTINCT FROM lift_tags.branch OR coalesce(told ->> 'outcome', 'ok') <> 'ok'
       OR coalesce(told ->> 'actor', '') = '' OR coalesce(trim(personal::jsonb ->> 'reason'), '') = ''
       OR told #>> '{details,lifted}' IS DISTINCT FROM array_to_string(lifted, ', ') THEN
        PERFORM refuse('cannot take off the tags pii and prod without a recorded reason', lift_tags.project);
    END IF;
    INSERT INTO tag_lifting (subject, xid, tags, audit_seq)
        VALUES (coalesce(lift_tags.branch, lift_tags.project), pg_current_xact_id(), lifted,
                audit_append(ARRAY[event], ARRAY[personal]));
    IF lift_tags.branch IS NULL THEN
        UPDATE cloister.project
           SET tags = joined_tags(ARRAY(SELECT unnest(tags) EXCEPT SELECT unnest(lifted)), '{}'), updated_at = now()
         WHERE id = lift_tags.project;
    ELSE
        UPDATE cloister.branch
           SET tags = joined_tags(ARRAY(SELECT unnest(tags) EXCEPT SELECT unnest(lifted)), '{}'), updated_at = now()
         WHERE id = lift_tags.branch AND project_id = lift_tags.project;
    END IF;
END $$;

REVOKE ALL ON FUNCTION tags_of_data(text), require_lifted(text, text[], text[]), branch_tagging(), timeline_tagging(),
    snapshot_tagging(), project_tagging(), lift_tags(text, text, text[], text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lift_tags(text, text, text[], text, text) TO cloister_api;
