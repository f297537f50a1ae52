-- Keys in a hierarchy (root → seal → project key → keys for data, backups …), and what is so of a project's keys as a whole.
--
-- A rotation inserts: a new version of a key is a new row, and what it replaces stays until it is destroyed. `version` counts
-- envelopes, `material` the secrets in them: after a rewrap two versions hold the same material.

SET search_path = cloister, pg_catalog;

ALTER TABLE wrapped_key ADD COLUMN material integer NOT NULL DEFAULT 1 CHECK (material > 0);

-- When a row came to be decides when the one before it may go: so it is the database's word, whatever the broker says.
CREATE FUNCTION wrapped_key_birth() RETURNS trigger
    LANGUAGE plpgsql SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    NEW.created_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER wrapped_key_birth BEFORE INSERT ON wrapped_key FOR EACH ROW EXECUTE FUNCTION wrapped_key_birth();
ALTER TABLE wrapped_key ENABLE ALWAYS TRIGGER wrapped_key_birth;

-- A version that nobody needs any more: a newer one has held the same material for seven days; or it is a project key whose
-- successor is as old, and nothing is wrapped by it. Seven days in which a successor that does not open would be noticed.
CREATE FUNCTION is_superseded(key wrapped_key) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM wrapped_key AS newer
         WHERE newer.project_id = key.project_id AND newer.purpose = key.purpose AND newer.version > key.version
           AND newer.state = 'enabled' AND newer.created_at <= now() - interval '7 days'
           AND (newer.material = key.material
                OR key.purpose = 'project' AND NOT EXISTS (
                    SELECT FROM wrapped_key AS below
                     WHERE below.project_id = key.project_id AND below.provider = 'project'
                       AND below.root_version = key.material::text AND below.state <> 'destroyed')))
$$;

-- As before, a protected branch's keys stay as they are; the one thing that may happen to them is that a superseded version
-- is destroyed, and nothing else about its row changes.
CREATE OR REPLACE FUNCTION wrapped_key_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    found text := shielded_in(OLD.project_id);
BEGIN
    IF found IS NULL THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.state = 'destroyed' AND NEW.wrapped IS NULL AND is_superseded(OLD)
           AND to_jsonb(NEW) - '{state, wrapped, destroyed_at}'::text[] = to_jsonb(OLD) - '{state, wrapped, destroyed_at}'::text[]
        THEN
            RETURN NEW;
        END IF;
    END IF;
    PERFORM refuse('cannot destroy keys of project with protected branches', found);
END $$;

-- A project's keys as a whole. Whether they may be used stands here, so that saying no changes no key.
CREATE TABLE key_ring (
    project_id  text PRIMARY KEY,
    state       text NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled', 'pending_destruction')),
    destroy_at  timestamptz,
    rotated_at  timestamptz NOT NULL,
    CHECK ((destroy_at IS NOT NULL) = (state = 'pending_destruction'))
);
INSERT INTO key_ring (project_id, rotated_at) SELECT project_id, max(created_at) FROM wrapped_key GROUP BY project_id;
CREATE INDEX key_ring_due ON key_ring (rotated_at);

CREATE FUNCTION key_ring_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    found text;
BEGIN
    IF TG_OP = 'DELETE' OR NEW.state = 'pending_destruction' THEN
        found := shielded_in((coalesce(OLD, NEW)).project_id);
        IF found IS NOT NULL THEN
            PERFORM refuse('cannot destroy keys of project with protected branches', found);
        END IF;
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER key_ring_protection BEFORE INSERT OR UPDATE OR DELETE ON key_ring
    FOR EACH ROW EXECUTE FUNCTION key_ring_protection();
ALTER TABLE key_ring ENABLE ALWAYS TRIGGER key_ring_protection;

-- How often an organization's project keys are rotated. No row: yearly.
CREATE TABLE key_policy (
    org_id      text PRIMARY KEY REFERENCES organization (id) ON DELETE CASCADE,
    rotate_days integer NOT NULL CHECK (rotate_days BETWEEN 1 AND 2560)
);

REVOKE ALL ON FUNCTION wrapped_key_birth(), is_superseded(wrapped_key), key_ring_protection() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION is_superseded(wrapped_key) TO cloister_keys;
GRANT SELECT, INSERT, UPDATE ON key_ring, key_policy TO cloister_keys;
GRANT SELECT (id, org_id, deleted_at) ON project TO cloister_keys;
