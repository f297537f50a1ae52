-- Read-only endpoints: the compute of one is a standby without a point, which follows its branch (docs/adr/0018-read-only-endpoints.md).

SET search_path = cloister, pg_catalog;

-- The endpoint's own row never has a socket: whoever looks for who writes a branch's data cannot find a reader.
ALTER TABLE standby ALTER COLUMN point DROP NOT NULL,
    ADD COLUMN endpoint_id text UNIQUE REFERENCES endpoint (id),
    ADD CHECK ((point IS NULL) = (endpoint_id IS NOT NULL)),
    ADD CHECK (endpoint_id = id);
ALTER TABLE endpoint ADD CHECK (type = 'read_write' OR (socket_dir IS NULL AND is_clean AND state <> 'init'));
