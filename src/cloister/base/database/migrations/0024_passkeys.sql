-- Passkeys: what somebody shows, beside their key, for one privileged act at a time. docs/passkeys.md explains; control/passkeys
-- decides.

SET search_path = cloister, pg_catalog;

CREATE TABLE passkey (
    id              uuid PRIMARY KEY,
    account_id      uuid NOT NULL REFERENCES account (id),
    name            text NOT NULL CHECK (name <> ''),
    credential_id   bytea NOT NULL UNIQUE CHECK (length(credential_id) BETWEEN 1 AND 1023),
    public_key      bytea NOT NULL,                 -- COSE
    sign_count      bigint NOT NULL CHECK (sign_count BETWEEN 0 AND 4294967295),
    created_at      timestamptz NOT NULL,
    last_used_at    timestamptz,
    UNIQUE (account_id, name)
);
GRANT SELECT, INSERT, DELETE, UPDATE (sign_count, last_used_at) ON passkey TO cloister_api;

-- A passkey stays whose it is, and its counter only grows: what counts at all is never seen with the same number again.
CREATE FUNCTION passkey_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF (OLD.id, OLD.account_id, OLD.credential_id, OLD.public_key, OLD.created_at) IS DISTINCT FROM
       (NEW.id, NEW.account_id, NEW.credential_id, NEW.public_key, NEW.created_at) THEN
        PERFORM refuse('a passkey stays whose it is', OLD.id::text);
    END IF;
    IF NEW.sign_count <= OLD.sign_count AND (NEW.sign_count, OLD.sign_count) <> (0, 0) THEN
        PERFORM refuse('the counter of a passkey only grows', OLD.id::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER passkey_holds BEFORE UPDATE ON passkey FOR EACH ROW EXECUTE FUNCTION passkey_holds();
ALTER TABLE passkey ENABLE ALWAYS TRIGGER passkey_holds;
REVOKE ALL ON FUNCTION passkey_holds() FROM PUBLIC;

-- A challenge that was given out, until it is answered: kept as its digest, and never changed, so it is for one request of one key.
CREATE TABLE passkey_challenge (
    digest          bytea PRIMARY KEY,
    account_id      uuid NOT NULL REFERENCES account (id),
    key_id          bigint NOT NULL REFERENCES api_key (id),
    request         bytea,                          -- SHA-256 of the request that it is for; none: to make a passkey
    act             text NOT NULL,                  -- what the page says of it, with the two that follow
    target          text NOT NULL,
    address         text NOT NULL,
    expires_at      timestamptz NOT NULL
);
CREATE INDEX passkey_challenge_ends ON passkey_challenge (expires_at);
GRANT SELECT, INSERT, DELETE ON passkey_challenge TO cloister_api;

-- Privileged acts in it take a passkey, whoever asks.
ALTER TABLE organization ADD COLUMN requires_passkey boolean NOT NULL DEFAULT false;
