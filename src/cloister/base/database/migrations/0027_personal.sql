-- What is personal in an event stands beside its body, which has a commitment to it: so it can be erased, and the body, its hash and
-- every proof stay. Two people erase what is of one subject; the database does it, and tells. docs/adr/0041-forgetting.md has the reasons.

SET search_path = cloister, pg_catalog;

ALTER TABLE audit_event ADD COLUMN personal text;      -- JSON with a salt, or what says that it was erased; NULL: there is none

-- The chain, for the owner's functions alone. `personals` go with the bodies by their place. Nothing begins as if it had been erased, or
-- with a salt that could be guessed; and that something was forgotten, only `audit_forget` says.
CREATE FUNCTION audit_chain(bodies text[], personals text[], is_forgetting boolean) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    head      audit_head%ROWTYPE;
    body      text;
    personal  text;
    did       text;
BEGIN
    SELECT * INTO STRICT head FROM audit_head FOR UPDATE;
    FOR body, personal IN SELECT * FROM unnest(bodies, personals) LOOP
        head.seq  := head.seq + 1;
        head.hash := sha256(head.hash || int8send(head.seq) || convert_to(body, 'UTF8'));
        INSERT INTO audit_event (seq, body, hash, personal) VALUES (head.seq, body, head.hash, personal)
            RETURNING audit_event.action INTO did;
        -- A body is parsed here where it must be, not for each event: the commitment is its last member, and one that has none has not
        -- even the word, unless it is escaped.
        IF (CASE WHEN personal IS NULL
                 THEN (strpos(body, '"personal"') > 0 OR strpos(body, '\') > 0) AND body::jsonb ? 'personal'
                 ELSE right(body, 86) <> ',"personal":"sha256:' || encode(sha256(convert_to(personal, 'UTF8')), 'hex') || '"}'
                      OR personal NOT LIKE '{"salt":"______________________"%' OR personal::jsonb ? 'erasure' END)
           OR did = 'audit.forget' AND NOT is_forgetting THEN
            PERFORM refuse('an event is not appended so', did);
        END IF;
    END LOOP;
    UPDATE audit_head SET seq = head.seq, hash = head.hash;
    RETURN head.seq;
END $$;

-- The one way to write the log, as in 0001.
DROP FUNCTION audit_append(text[]);
CREATE FUNCTION audit_append(bodies text[], personals text[] DEFAULT '{}') RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    RETURN audit_chain(bodies, personals, false);
END $$;

-- As in 0002, with what is personal in the event.
DROP FUNCTION unprotect(text, text);
CREATE FUNCTION unprotect(branch_id text, event text, personal text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    told  jsonb := event::jsonb;
    about branch%ROWTYPE;
BEGIN
    SELECT * INTO about FROM branch WHERE id = unprotect.branch_id FOR UPDATE;
    IF told ->> 'action' IS DISTINCT FROM 'branch.unprotect' OR told ->> 'branch_id' IS DISTINCT FROM about.id
       OR told ->> 'project_id' IS DISTINCT FROM about.project_id OR coalesce(told ->> 'outcome', 'ok') <> 'ok'
       OR coalesce(told ->> 'actor', '') = '' OR coalesce(trim(told ->> 'reason'), '') = '' THEN
        PERFORM refuse('cannot unprotect branch without a recorded reason', unprotect.branch_id);
    END IF;
    IF about.is_protected THEN
        INSERT INTO unprotection (branch_id, xid, audit_seq)
            VALUES (about.id, pg_current_xact_id(), audit_append(ARRAY[event], ARRAY[personal]))
            ON CONFLICT DO NOTHING;
        UPDATE branch SET is_protected = false, updated_at = now() WHERE id = about.id;
    END IF;
END $$;

-- ── forgetting ──

CREATE TABLE audit_forgetting (
    id          uuid PRIMARY KEY,
    project_id  text REFERENCES project (id),                       -- in its events; NULL: in all
    kind        text NOT NULL CHECK (kind IN ('role', 'address', 'account')),
    subject     text CHECK (subject <> ''),                         -- a role's name, an address, an account's id; NULL: forgotten here, too
    up_to       bigint NOT NULL,                                    -- the last event when it was asked for
    reason      text NOT NULL CHECK (reason <> ''),
    asked_by    uuid NOT NULL REFERENCES account (id),
    asked_at    timestamptz NOT NULL DEFAULT now(),
    agreed_by   uuid REFERENCES account (id),
    agreed_at   timestamptz,
    found       bigint NOT NULL,                                    -- how many events were about it then
    remaining   bigint NOT NULL,                                    -- and how many that stay: from before there was anything to erase
    events      bigint[],                                           -- that were erased
    CONSTRAINT not_by_oneself CHECK (agreed_by <> asked_by),
    CHECK (num_nulls(agreed_by, agreed_at, events) IN (0, 3)),
    CHECK (agreed_at <= asked_at + interval '7 days'),
    CHECK (project_id IS NOT NULL OR kind <> 'role')                -- of a name alone, nobody knows whose it is
);
CREATE INDEX audit_forgetting_of_project ON audit_forgetting (project_id, asked_at);
GRANT SELECT, INSERT (id, project_id, kind, subject, reason, asked_by) ON audit_forgetting TO cloister_api;

-- Agreed to once, by the database's clock, as it was asked for; then and after only the subject goes.
CREATE FUNCTION audit_forgetting_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    agreed CONSTANT text[] := '{subject,agreed_by,agreed_at,events}';
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.subject IS NULL OR NEW.agreed_by IS NOT NULL THEN
            PERFORM refuse('a forgetting is agreed to after it was asked for', NEW.id::text);
        END IF;
        IF NEW.project_id IS NOT NULL THEN
            PERFORM refuse_if_held(NEW.project_id);
        END IF;
        NEW.asked_at := now();
        NEW.up_to := (SELECT seq FROM audit_head);
        SELECT count(*) FILTER (WHERE NOT a.is_old), count(*) FILTER (WHERE a.is_old) INTO NEW.found, NEW.remaining
          FROM audit_about(NEW) a;
        IF NEW.found = 0 THEN
            PERFORM refuse('there is nothing that this would erase', NEW.id::text);
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR NEW.subject IS NOT NULL OR to_jsonb(NEW) - agreed <> to_jsonb(OLD) - agreed
       OR OLD.agreed_by IS NOT NULL AND to_jsonb(NEW) - 'subject' <> to_jsonb(OLD) - 'subject' THEN
        PERFORM refuse('a forgetting is agreed to once, as it was asked for', OLD.id::text);
    END IF;
    IF OLD.agreed_by IS NULL AND NEW.agreed_by IS NOT NULL THEN
        NEW.agreed_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_forgetting_holds BEFORE INSERT OR UPDATE OR DELETE ON audit_forgetting
    FOR EACH ROW EXECUTE FUNCTION audit_forgetting_holds();
ALTER TABLE audit_forgetting ENABLE ALWAYS TRIGGER audit_forgetting_holds;

-- What stands in the place of what was erased.
CREATE FUNCTION erased_mark(erasure uuid, at timestamptz) RETURNS text
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT format('{"erasure":"%s","erased_at":"%s"}', erasure, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
$$;

-- The one change of an event: what is personal in it goes, in the transaction in which two agreed to that, and while nothing holds it.
CREATE FUNCTION audit_personal_ends() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.seq, NEW.body, NEW.hash) IS DISTINCT FROM (OLD.seq, OLD.body, OLD.hash)
       OR OLD.personal IS NULL OR OLD.personal::jsonb ? 'erasure'
       OR NOT EXISTS (SELECT FROM audit_forgetting f
                       WHERE f.agreed_at = now() AND NEW.personal = erased_mark(f.id, f.agreed_at)) THEN
        PERFORM refuse('nobody agreed to erasing this of an event', OLD.seq::text);
    END IF;
    IF OLD.project_id <> '' THEN
        PERFORM refuse_if_held(OLD.project_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_personal_ends BEFORE UPDATE OF personal ON audit_event
    FOR EACH ROW EXECUTE FUNCTION audit_personal_ends();
ALTER TABLE audit_event ENABLE ALWAYS TRIGGER audit_personal_ends;

-- The events that are about a subject, as far as nobody erased them. `is_old`: from before there was anything to erase, and so they stay.
-- Only names of roles are set apart of what is in `resource`.
CREATE FUNCTION audit_about(asked audit_forgetting) RETURNS TABLE (seq bigint, is_old boolean)
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    WITH who AS (
        SELECT lower(email) AS email FROM account WHERE asked.kind = 'account' AND id::text = asked.subject),
    keys AS (
        SELECT format('key:%s', id) AS actor FROM api_key WHERE asked.kind = 'account' AND account_id::text = asked.subject),
    roles AS (
        SELECT project_id, format('role:%s', role) AS actor FROM access_request
         WHERE asked.kind = 'account' AND account_id::text = asked.subject AND role IS NOT NULL)
    SELECT e.seq, e.personal IS NULL
      FROM audit_event e
      CROSS JOIN LATERAL (SELECT coalesce(e.personal, e.body)::jsonb AS it) p
     WHERE e.seq <= asked.up_to AND (asked.project_id IS NULL OR e.project_id = asked.project_id)
       AND NOT (e.personal IS NOT NULL AND p.it ? 'erasure')
       AND CASE asked.kind
           WHEN 'role' THEN p.it ->> 'actor' = format('role:%s', asked.subject)
                OR p.it ->> 'resource' = asked.subject AND (e.personal IS NOT NULL OR starts_with(e.action, 'role.'))
                OR p.it #>> '{details,to}' = asked.subject
                OR asked.subject = ANY (string_to_array(p.it #>> '{details,role_names}', ', '))
           WHEN 'address' THEN p.it ->> 'address' = asked.subject
           ELSE e.actor = format('user:%s', asked.subject) OR e.actor IN (SELECT actor FROM keys)
                OR e.body::jsonb ->> 'resource' = asked.subject
                OR (e.project_id, p.it ->> 'actor') IN (SELECT project_id, actor FROM roles)
                OR lower(p.it #>> '{details,email}') IN (SELECT email FROM who)
                OR lower(p.it #>> '{details,owner}') IN (SELECT email FROM who)
                OR lower(p.it #>> '{details,was_owner}') IN (SELECT email FROM who) END
$$;

-- Erases what is personal in them, and says so in the log: which erasure, whose words, how many events, and the SHA-256 of their numbers,
-- 8 bytes each, in order. `personal` is what is personal in that event itself. How many it erased.
CREATE FUNCTION audit_forget(erasure uuid, agreeing uuid, request text, personal text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    asked  audit_forgetting%ROWTYPE;
    seqs   bigint[];
    told   json;
BEGIN
    SELECT * INTO asked FROM audit_forgetting f WHERE f.id = erasure FOR UPDATE;
    IF asked.id IS NULL OR asked.agreed_by IS NOT NULL OR asked.subject IS NULL OR agreeing IS NULL THEN
        PERFORM refuse('there is nothing that this would erase', erasure::text);
    END IF;
    seqs := ARRAY(SELECT a.seq FROM audit_about(asked) a WHERE NOT a.is_old ORDER BY a.seq);
    IF seqs = '{}' THEN
        PERFORM refuse('there is nothing that this would erase', erasure::text);
    END IF;
    UPDATE audit_forgetting f SET subject = NULL, agreed_by = agreeing, events = seqs WHERE f.id = erasure;
    UPDATE audit_event e SET personal = erased_mark(erasure, now()) WHERE e.seq = ANY (seqs);
    -- Who asked for the same and was not answered named the subject, too.
    UPDATE audit_forgetting f SET subject = NULL
     WHERE (f.kind, f.subject) = (asked.kind, asked.subject) AND f.project_id IS NOT DISTINCT FROM asked.project_id;
    told := json_strip_nulls(json_build_object(
        'action', 'audit.forget',
        'actor', format('user:%s', agreeing),
        'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'outcome', 'ok',
        'project_id', asked.project_id,
        'resource', format('forgetting/%s', erasure),
        'request_id', CASE WHEN octet_length(request) = length(request) THEN nullif(request, '') END,
        'details', json_build_object(
            'erasure', erasure, 'asked_by', format('user:%s', asked.asked_by), 'kind', asked.kind, 'events', cardinality(seqs),
            'sha256', encode(sha256((SELECT string_agg(int8send(n), '' ORDER BY n) FROM unnest(seqs) AS n)), 'hex')),
        'personal', 'sha256:' || encode(sha256(convert_to(personal, 'UTF8')), 'hex')));
    PERFORM audit_chain(ARRAY[told::text], ARRAY[personal], true);
    RETURN cardinality(seqs);
END $$;

REVOKE ALL ON FUNCTION audit_chain(text[], text[], boolean), audit_append(text[], text[]), unprotect(text, text, text),
    audit_forgetting_holds(), audit_personal_ends(), erased_mark(uuid, timestamptz), audit_about(audit_forgetting),
    audit_forget(uuid, uuid, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_append(text[], text[]) TO cloister_api, cloister_keys;
GRANT EXECUTE ON FUNCTION unprotect(text, text, text), audit_forget(uuid, uuid, text, text)
    TO cloister_api;
