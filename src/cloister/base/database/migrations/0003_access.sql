-- Who may do what, beyond one organization's admins and members: roles, grants for single projects, keys of organizations,
-- keys that end or that open only from some addresses. docs/access.md explains; trust/access/policies decides.

SET search_path = cloister, pg_catalog;

-- Who runs the platform: makes accounts and organizations, reads the whole audit log. Nothing of a tenant's comes with it.
ALTER TABLE account ADD COLUMN is_operator boolean NOT NULL DEFAULT false;
UPDATE account SET is_operator = true WHERE email = 'admin@localhost';
-- By their address people are found: two that differ in case alone would be taken for each other.
CREATE UNIQUE INDEX account_address ON account (lower(email));

ALTER TABLE membership DROP CONSTRAINT membership_role_check;
UPDATE membership SET role = 'editor' WHERE role = 'member';
ALTER TABLE membership ADD CHECK (role IN ('admin', 'editor', 'viewer', 'collaborator'));
ALTER TABLE membership ADD COLUMN joined_at timestamptz NOT NULL DEFAULT now();

-- A role in one project, for somebody of its organization. Who leaves the organization loses it by the cascade; a project
-- that moves cannot take it along, for then it would name people that the new organization does not know.
ALTER TABLE project ADD UNIQUE (id, org_id);
CREATE TABLE project_grant (
    id          uuid PRIMARY KEY,
    project_id  text NOT NULL,
    org_id      text NOT NULL,
    account_id  uuid NOT NULL,
    role        text NOT NULL CHECK (role IN ('admin', 'editor', 'viewer')),
    granted_by  uuid NOT NULL REFERENCES account (id),
    granted_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, account_id),
    FOREIGN KEY (project_id, org_id) REFERENCES project (id, org_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, account_id) REFERENCES membership (org_id, account_id) ON DELETE CASCADE
);
CREATE INDEX project_grant_of_account ON project_grant (account_id);
CREATE INDEX project_grant_of_member ON project_grant (org_id, account_id);
GRANT SELECT, INSERT, UPDATE, DELETE ON project_grant TO cloister_api;

-- With org_id a key is the organization's: account_id is who made it, and it outlives their membership. With project_id it
-- is for that project, as long as the project is the organization's.
ALTER TABLE api_key
    ADD COLUMN org_id text REFERENCES organization (id),
    ADD COLUMN project_id text REFERENCES project (id) ON DELETE CASCADE,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN allowed_ips text[] NOT NULL DEFAULT '{}',        -- base/ipallow.py; empty: from everywhere
    ADD COLUMN prefix text NOT NULL DEFAULT '',                 -- how it begins, for people to tell keys apart
    ADD CHECK (project_id IS NULL OR org_id IS NOT NULL);
CREATE INDEX api_key_of_organization ON api_key (org_id) WHERE revoked_at IS NULL;

-- An organization that nobody governs could never be governed again. The organization's row is locked, so of two admins who
-- remove each other at the same moment the second is refused.
CREATE FUNCTION admin_remains() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.role = 'admin' AND (NEW.org_id, NEW.account_id) = (OLD.org_id, OLD.account_id) THEN
        RETURN NEW;
    END IF;
    PERFORM FROM organization WHERE id = OLD.org_id FOR UPDATE;
    IF NOT EXISTS (SELECT FROM membership
                    WHERE org_id = OLD.org_id AND role = 'admin' AND account_id <> OLD.account_id) THEN
        PERFORM refuse('cannot remove or downgrade the only admin of an organization', OLD.org_id);
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER admin_remains BEFORE DELETE OR UPDATE ON membership
    FOR EACH ROW WHEN (OLD.role = 'admin') EXECUTE FUNCTION admin_remains();
ALTER TABLE membership ENABLE ALWAYS TRIGGER admin_remains;
REVOKE ALL ON FUNCTION admin_remains() FROM PUBLIC;
