-- What an organization's identity provider says of its people (SCIM): who is there, who is not any more. docs/people.md explains;
-- control/scim decides.

SET search_path = cloister, pg_catalog;

-- An organization's directory, and the one token that is good for it and for nothing else. Without a digest nobody may speak; what
-- was said stays so.
CREATE TABLE scim (
    org_id          text PRIMARY KEY REFERENCES organization (id),
    digest          bytea UNIQUE,                   -- SHA-256 of the token: 256 random bits
    enabled_at      timestamptz NOT NULL,
    last_used_at    timestamptz,
    last_used_from  text
);
GRANT SELECT, INSERT, UPDATE ON scim TO cloister_api;

CREATE TABLE scim_user (
    id              uuid PRIMARY KEY,
    org_id          text NOT NULL REFERENCES scim (org_id),
    user_name       text NOT NULL,
    user_key        text NOT NULL,                  -- user_name, in the one form of all spellings that are the same
    external_id     text,
    display_name    text,
    given_name      text,
    family_name     text,
    emails          jsonb NOT NULL,                 -- [{value, type, primary}]
    addresses       text[] NOT NULL,                -- user_name and emails, as accounts are found by them
    account_id      uuid REFERENCES account (id),   -- whose that is here, as soon as it is known; and then for good
    is_active       boolean NOT NULL,
    created_at      timestamptz NOT NULL,
    changed_at      timestamptz NOT NULL,
    deleted_at      timestamptz                     -- the directory does not know them any more; that they may not come in stays
);
CREATE UNIQUE INDEX scim_user_name ON scim_user (org_id, user_key) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX scim_user_account ON scim_user (org_id, account_id) WHERE deleted_at IS NULL;
CREATE INDEX scim_user_of_account ON scim_user (account_id);
CREATE INDEX scim_user_external ON scim_user (org_id, external_id);
CREATE INDEX scim_user_addresses ON scim_user USING gin (addresses);
GRANT SELECT, INSERT, UPDATE, DELETE ON scim_user TO cloister_api;

CREATE TABLE scim_group (
    id              uuid PRIMARY KEY,
    org_id          text NOT NULL REFERENCES scim (org_id),
    display_name    text NOT NULL,
    external_id     text,
    created_at      timestamptz NOT NULL,
    changed_at      timestamptz NOT NULL,
    UNIQUE (org_id, display_name),
    UNIQUE (id, org_id)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON scim_group TO cloister_api;

-- Nobody of another organization is in a group.
ALTER TABLE scim_user ADD UNIQUE (id, org_id);
CREATE TABLE scim_group_member (
    group_id        uuid NOT NULL,
    user_id         uuid NOT NULL,
    org_id          text NOT NULL,
    PRIMARY KEY (group_id, user_id),
    FOREIGN KEY (group_id, org_id) REFERENCES scim_group (id, org_id) ON DELETE CASCADE,
    FOREIGN KEY (user_id, org_id) REFERENCES scim_user (id, org_id) ON DELETE CASCADE
);
CREATE INDEX scim_group_member_of ON scim_group_member (user_id);
GRANT SELECT, INSERT, DELETE ON scim_group_member TO cloister_api;

-- As an issuer last told it: by it somebody is found whose account has another address.
ALTER TABLE identity ADD COLUMN email text;

-- Since when nothing of it holds: their directory said that they are not there. It is kept, for the day they are again.
ALTER TABLE membership ADD COLUMN suspended_at timestamptz;

-- Whoever is suspended governs nothing, so they do not count; and of somebody suspended anything may be taken.
CREATE OR REPLACE FUNCTION admin_remains() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.suspended_at IS NOT NULL AND (TG_OP = 'DELETE' OR (NEW.org_id, NEW.account_id) = (OLD.org_id, OLD.account_id)) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.role = 'admin' AND NEW.suspended_at IS NULL
       AND (NEW.org_id, NEW.account_id) = (OLD.org_id, OLD.account_id) THEN
        RETURN NEW;
    END IF;
    PERFORM FROM organization WHERE id = OLD.org_id FOR UPDATE;
    IF NOT EXISTS (SELECT FROM membership
                    WHERE org_id = OLD.org_id AND role = 'admin' AND suspended_at IS NULL AND account_id <> OLD.account_id) THEN
        IF TG_OP = 'UPDATE' AND NEW.suspended_at IS NOT NULL THEN
            PERFORM refuse('cannot deactivate the only admin of an organization', OLD.org_id);
        END IF;
        PERFORM refuse('cannot remove or downgrade the only admin of an organization', OLD.org_id);
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
