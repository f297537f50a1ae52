-- The keys of statement logs stand below their projects', and end by themselves. docs/adr/0031-statement-keys.md has the
-- reasons.

SET search_path = cloister, pg_catalog;

-- A pair for each project and month. Segments are sealed for the public half, by whoever has this row; the private half is in
-- an envelope that the key broker alone opens, and no longer when its seal is gone.
CREATE TABLE statement_key (
    project_id  text NOT NULL REFERENCES project (id),
    generation  integer NOT NULL CHECK (generation > 0),
    public      bytea NOT NULL CHECK (octet_length(public) = 32),
    wrapped     bytea NOT NULL,
    began_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, generation)
);
GRANT SELECT, INSERT (project_id, generation, public, wrapped) ON statement_key TO cloister_api;

-- NULL: from before, under a key that is derived from the API's control key.
ALTER TABLE statement_segment ADD COLUMN generation integer,
    ADD FOREIGN KEY (project_id, generation) REFERENCES statement_key (project_id, generation);
