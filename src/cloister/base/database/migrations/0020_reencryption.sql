-- Volumes whose data is encrypted anew, under another key: what was asked for, and how it ended. How far it is stands with
-- the node agent; which key a volume has, in its image.

SET search_path = cloister, pg_catalog;

CREATE TABLE reencryption (
    project_id    text NOT NULL REFERENCES volume (project_id),
    material      integer NOT NULL CHECK (material > old_material),    -- the volume key it gets
    old_material  integer NOT NULL CHECK (old_material > 0),           -- and the one it has until then
    state         text NOT NULL CHECK (state IN ('copying', 'paused', 'cancelling', 'cancelled', 'done')),
    bytes_per_s   bigint CHECK (bytes_per_s > 0),                      -- NULL: as fast as it goes
    is_urgent     boolean NOT NULL,                                    -- do not wait until it sleeps
    asked_by      text NOT NULL,
    begun_at      timestamptz NOT NULL,
    ready_at      timestamptz,
    finished_at   timestamptz,
    passed_bytes  bigint NOT NULL DEFAULT 0,
    used_bytes    bigint NOT NULL DEFAULT 0,
    paused_s      double precision,
    problem       text NOT NULL DEFAULT '',
    PRIMARY KEY (project_id, material),
    CHECK ((finished_at IS NOT NULL) = (state IN ('cancelled', 'done')))
);
CREATE UNIQUE INDEX reencryption_under_way ON reencryption (project_id) WHERE state IN ('copying', 'paused', 'cancelling');
GRANT SELECT, INSERT, UPDATE ON reencryption TO cloister_api;
GRANT SELECT ON reencryption TO cloister_keys;

-- What is done decides that an old key may go: so when it was is the database's word, and it stays.
CREATE FUNCTION reencryption_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.state <> 'copying' THEN
        PERFORM refuse('a re-encryption begins with copying', NEW.project_id);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.state = 'done' OR (NEW.project_id, NEW.material) IS DISTINCT FROM (OLD.project_id, OLD.material) THEN
            PERFORM refuse('a re-encryption that is done stays as it is', OLD.project_id);
        END IF;
        NEW.finished_at := CASE WHEN NEW.state IN ('cancelled', 'done') THEN now() END;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER reencryption_holds BEFORE INSERT OR UPDATE ON reencryption
    FOR EACH ROW EXECUTE FUNCTION reencryption_holds();
ALTER TABLE reencryption ENABLE ALWAYS TRIGGER reencryption_holds;
REVOKE ALL ON FUNCTION reencryption_holds() FROM PUBLIC;

-- A version that nobody needs any more is also: the key of a volume that has had another for seven days. The broker destroys
-- it, the API says that the volume has left it: on a protected branch neither can do without the other.
CREATE OR REPLACE FUNCTION is_superseded(key wrapped_key) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM wrapped_key AS newer
         WHERE newer.project_id = key.project_id AND newer.purpose = key.purpose AND newer.version > key.version
           AND newer.state = 'enabled' AND newer.created_at <= now() - interval '7 days'
           AND (newer.material = key.material
                OR key.purpose = 'volume' AND EXISTS (
                    SELECT FROM reencryption AS it
                     WHERE it.project_id = key.project_id AND it.old_material = key.material
                       AND it.material = newer.material AND it.state = 'done'
                       AND it.finished_at <= now() - interval '7 days')
                OR key.purpose = 'project' AND NOT EXISTS (
                    SELECT FROM wrapped_key AS below
                     WHERE below.project_id = key.project_id AND below.provider = 'project'
                       AND below.root_version = key.material::text AND below.state <> 'destroyed')))
$$;

-- How often the data of an organization's projects is encrypted anew. NULL: never by itself.
ALTER TABLE key_policy ADD COLUMN reencrypt_days integer CHECK (reencrypt_days BETWEEN 1 AND 2560);
GRANT SELECT ON key_policy TO cloister_api;
