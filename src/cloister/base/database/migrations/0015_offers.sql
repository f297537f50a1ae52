-- Projects that are offered to whoever holds the offer's id: Neon's transfer requests. docs/access.md explains.

SET search_path = cloister, pg_catalog;

-- One for a project; a new one takes the place of the last. It ends with whatever let it be made: with the membership of who
-- made it (the cascade), with their role in the organization (the trigger), with the key that they used (whoever accepts
-- looks), with the project's being the organization's.
CREATE TABLE project_offer (
    project_id  text PRIMARY KEY,
    org_id      text NOT NULL,
    digest      bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),     -- SHA-256 of its id, which opens the project
    offered_by  uuid NOT NULL,
    key_id      bigint NOT NULL REFERENCES api_key (id),
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL CHECK (expires_at > created_at),
    FOREIGN KEY (project_id, org_id) REFERENCES project (id, org_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, offered_by) REFERENCES membership (org_id, account_id) ON DELETE CASCADE
);
CREATE INDEX project_offer_of_member ON project_offer (org_id, offered_by);
GRANT SELECT, INSERT, UPDATE, DELETE ON project_offer TO cloister_api;

CREATE FUNCTION offers_end() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM project_offer WHERE org_id = OLD.org_id AND offered_by = OLD.account_id;
    RETURN NEW;
END $$;
CREATE TRIGGER offers_end AFTER UPDATE OF role ON membership
    FOR EACH ROW WHEN (OLD.role <> NEW.role) EXECUTE FUNCTION offers_end();
ALTER TABLE membership ENABLE ALWAYS TRIGGER offers_end;
REVOKE ALL ON FUNCTION offers_end() FROM PUBLIC;
