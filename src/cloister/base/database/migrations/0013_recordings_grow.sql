-- A recording only grows, by the chunk that follows, and not after its end: whatever a process of ours does.
-- docs/approved-access.md explains; sealing.py says what a head is.

SET search_path = cloister, pg_catalog;

CREATE FUNCTION recording_grows() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    grown bytea;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF (NEW.chunks, NEW.statements, NEW.reason, NEW.head) IS DISTINCT FROM (0, 0::bigint, '', sha256(uuid_send(NEW.id)))
           OR NEW.ended_at IS NOT NULL THEN
            PERFORM refuse('a recording begins empty', NEW.id::text);
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.ended_at IS NOT NULL THEN
        PERFORM refuse('a recording that has ended does not change', OLD.id::text);
    END IF;
    IF (NEW.id, NEW.request_id, NEW.project_id, NEW.account_id, NEW.wrapped_key, NEW.address, NEW.database, NEW.application,
        NEW.session_id, NEW.began_at)
       IS DISTINCT FROM
       (OLD.id, OLD.request_id, OLD.project_id, OLD.account_id, OLD.wrapped_key, OLD.address, OLD.database, OLD.application,
        OLD.session_id, OLD.began_at) THEN
        PERFORM refuse('what a recording is of does not change', OLD.id::text);
    END IF;
    IF NEW.chunks = OLD.chunks AND NEW.head = OLD.head AND NEW.statements = OLD.statements THEN
        RETURN NEW;
    END IF;
    SELECT sha256(OLD.head || int8send(OLD.chunks) || sealed) INTO grown
      FROM recording_chunk WHERE recording_id = OLD.id AND index = OLD.chunks;
    IF NEW.chunks <> OLD.chunks + 1 OR NEW.statements < OLD.statements OR NEW.head IS DISTINCT FROM grown THEN
        PERFORM refuse('a recording grows by the chunk that follows', OLD.id::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER recording_grows BEFORE INSERT OR UPDATE ON recording
    FOR EACH ROW EXECUTE FUNCTION recording_grows();
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_grows;
REVOKE ALL ON FUNCTION recording_grows() FROM PUBLIC;

CREATE FUNCTION recording_chunk_follows() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM recording WHERE id = NEW.recording_id AND chunks = NEW.index AND ended_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM refuse('a chunk is the next of a recording that goes on', NEW.recording_id::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER recording_chunk_follows BEFORE INSERT ON recording_chunk
    FOR EACH ROW EXECUTE FUNCTION recording_chunk_follows();
ALTER TABLE recording_chunk ENABLE ALWAYS TRIGGER recording_chunk_follows;
REVOKE ALL ON FUNCTION recording_chunk_follows() FROM PUBLIC;
