-- A recording's key has a seal in the keystore beside it, of its project and month: so what has ended does not come back with a
-- backup of this database. docs/adr/0040-retention.md has the reasons.

SET search_path = cloister, pg_catalog;

-- Of which month, as the key broker counts them: 202611. NULL: from before, without one.
ALTER TABLE recording ADD COLUMN seal integer CHECK (seal BETWEEN 100001 AND 999912);
CREATE INDEX recording_sealed ON recording (project_id, seal) WHERE seal IS NOT NULL;
GRANT SELECT (project_id, seal, erased_at) ON recording TO cloister_keys;

-- Which one it is does not change, as the rest does not: `recording_ends` refuses it.
DROP TRIGGER recording_ends ON recording;
DROP TRIGGER recording_grows ON recording;
DROP TRIGGER recording_written ON recording;
CREATE TRIGGER recording_ends BEFORE UPDATE ON recording
    FOR EACH ROW WHEN ((NEW.wrapped_key, NEW.erased_at, NEW.seal) IS DISTINCT FROM (OLD.wrapped_key, OLD.erased_at, OLD.seal))
    EXECUTE FUNCTION recording_ends();
CREATE TRIGGER recording_grows BEFORE UPDATE ON recording
    FOR EACH ROW WHEN ((NEW.wrapped_key, NEW.erased_at, NEW.seal) IS NOT DISTINCT FROM (OLD.wrapped_key, OLD.erased_at, OLD.seal))
    EXECUTE FUNCTION recording_grows();
CREATE TRIGGER recording_written BEFORE UPDATE ON recording
    FOR EACH ROW WHEN ((NEW.wrapped_key, NEW.erased_at, NEW.seal) IS NOT DISTINCT FROM (OLD.wrapped_key, OLD.erased_at, OLD.seal))
    EXECUTE FUNCTION recording_written();
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_ends;
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_grows;
ALTER TABLE recording ENABLE ALWAYS TRIGGER recording_written;
