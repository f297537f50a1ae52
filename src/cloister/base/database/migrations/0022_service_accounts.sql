-- Service accounts: what a machine is in an organization, whichever of its keys it shows. docs/service-accounts.md explains;
-- control/service_accounts decides.

SET search_path = cloister, pg_catalog;

CREATE TABLE service_account (
    id          uuid PRIMARY KEY,
    org_id      text NOT NULL REFERENCES organization (id),
    name        text NOT NULL CHECK (name ~ '^[a-z][a-z0-9-]{0,31}$'),
    role        text NOT NULL CHECK (role IN ('editor', 'viewer', 'collaborator')),     -- nobody's admin
    owner_id    uuid NOT NULL REFERENCES account (id),          -- who answers for it
    created_at  timestamptz NOT NULL,
    orphaned_at timestamptz,                                    -- since when its owner is not of the organization any more
    disabled_at timestamptz,
    removed_at  timestamptz
);
CREATE UNIQUE INDEX service_account_name ON service_account (org_id, name) WHERE removed_at IS NULL;
GRANT SELECT, INSERT, UPDATE ON service_account TO cloister_api;

CREATE TABLE service_account_grant (
    service_account_id  uuid NOT NULL REFERENCES service_account (id),
    project_id          text NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    role                text NOT NULL CHECK (role IN ('admin', 'editor', 'viewer')),
    PRIMARY KEY (service_account_id, project_id)
);
CREATE INDEX service_account_grant_of_project ON service_account_grant (project_id);
GRANT SELECT, INSERT, DELETE ON service_account_grant TO cloister_api;

-- A key of a service account's is the organization's, and always ends.
ALTER TABLE api_key ADD COLUMN service_account_id uuid REFERENCES service_account (id);
ALTER TABLE api_key ADD CONSTRAINT keys_of_service_accounts_end
    CHECK (service_account_id IS NULL
           OR (expires_at IS NOT NULL AND org_id IS NOT NULL AND project_id IS NULL AND issuer_id IS NULL));
CREATE INDEX api_key_of_service_account ON api_key (service_account_id) WHERE revoked_at IS NULL;

-- And stays so: without the account's name on it, it would be a key of the whole organization.
CREATE FUNCTION api_key_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM refuse('a key stays whose it is', OLD.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER api_key_holds BEFORE UPDATE ON api_key
    FOR EACH ROW WHEN (OLD.service_account_id IS DISTINCT FROM NEW.service_account_id) EXECUTE FUNCTION api_key_holds();
ALTER TABLE api_key ENABLE ALWAYS TRIGGER api_key_holds;
REVOKE ALL ON FUNCTION api_key_holds() FROM PUBLIC;

ALTER TABLE access_review_item DROP CONSTRAINT access_review_item_kind_check;
ALTER TABLE access_review_item ADD CONSTRAINT access_review_item_kind_check
    CHECK (kind IN ('member', 'grant', 'key', 'shift', 'service'));
