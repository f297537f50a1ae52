-- An end for the log's own events: by the platform's retention, the oldest go, and the hashes that prove all others stay (C2SP
-- tlog-tiles, "minimum index"). docs/adr/0045-pruning.md has the reasons.
--
--   audit_retention   class `events`, of no organization: two operators agree on it, and it holds a week later, as in 0025
--   audit_minimum     each minimum index: announced in the log, and reached once that event was signed
--   audit_tile        of what went, the root of every 256 leaves: with these the tree and every tile above them are what they were
--
-- No process writes here. `audit_announce` and `audit_reach` do all of it, and decide by what this database knows.

SET search_path = cloister, pg_catalog;

ALTER TABLE audit_retention
    ALTER COLUMN org_id DROP NOT NULL,
    DROP CONSTRAINT audit_retention_class_check,
    ADD CHECK (class IN ('statements', 'recordings', 'events')),
    ADD CONSTRAINT events_are_the_platforms CHECK ((class = 'events') = (org_id IS NULL)),
    ADD CONSTRAINT events_are_kept_for_longer CHECK (class <> 'events' OR days >= 400);
CREATE UNIQUE INDEX audit_retention_of_events ON audit_retention (number) WHERE org_id IS NULL;

-- As in 0025, and without an organization: of the platform.
CREATE OR REPLACE FUNCTION retention_of(whose text, what text) RETURNS integer
    LANGUAGE sql SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT days FROM audit_retention
     WHERE (org_id = whose OR whose IS NULL AND org_id IS NULL) AND class = what AND holds_from <= clock_timestamp()
     ORDER BY number DESC LIMIT 1
$$;

CREATE OR REPLACE FUNCTION audit_retention_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM refuse('how long a record is kept is history', OLD.id::text);
    END IF;
    IF NEW.org_id IS NULL THEN                                              -- one at a time
        PERFORM FROM audit_head FOR UPDATE;
    ELSE
        PERFORM FROM organization WHERE id = NEW.org_id FOR NO KEY UPDATE;
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF num_nonnulls(NEW.agreed_by, NEW.agreed_at) > 0 THEN
            PERFORM refuse('a retention is agreed to after it was asked for', NEW.id::text);
        END IF;
        NEW.number := 1 + (SELECT coalesce(max(number), 0) FROM audit_retention
                            WHERE org_id IS NOT DISTINCT FROM NEW.org_id AND class = NEW.class);
        NEW.asked_at := clock_timestamp();
        NEW.holds_from := CASE WHEN is_shorter(NEW.days, retention_of(NEW.org_id, NEW.class)) THEN NULL
                               ELSE clock_timestamp() END;
        RETURN NEW;
    END IF;
    IF OLD.holds_from IS NOT NULL OR NEW.agreed_by IS NULL
       OR (NEW.id, NEW.class, NEW.number, NEW.reason, NEW.asked_by, NEW.asked_at) IS DISTINCT FROM
          (OLD.id, OLD.class, OLD.number, OLD.reason, OLD.asked_by, OLD.asked_at)
       OR NEW.org_id IS DISTINCT FROM OLD.org_id OR NEW.days IS DISTINCT FROM OLD.days THEN
        PERFORM refuse('a retention is agreed to once, as it was asked for', OLD.id::text);
    END IF;
    IF EXISTS (SELECT FROM audit_retention
                WHERE org_id IS NOT DISTINCT FROM OLD.org_id AND class = OLD.class AND number > OLD.number
                  AND holds_from IS NOT NULL) THEN
        PERFORM refuse('another retention was set since this was asked for', OLD.id::text);
    END IF;
    NEW.agreed_at := clock_timestamp();
    NEW.holds_from := NEW.agreed_at + interval '7 days';
    RETURN NEW;
END $$;

CREATE TABLE audit_minimum (
    seq         bigint PRIMARY KEY CHECK (seq > 0 AND seq % 256 = 0),   -- the last event that goes
    hash        bytea NOT NULL,                                         -- the chain's, there
    root        bytea NOT NULL,                                         -- of the tree of all that go
    told_by     bigint NOT NULL,                                        -- the event that says so
    told_at     timestamptz NOT NULL DEFAULT now(),
    reached_at  timestamptz                                             -- NULL: they are still there
);
CREATE UNIQUE INDEX audit_minimum_ahead ON audit_minimum ((true)) WHERE reached_at IS NULL;

CREATE TABLE audit_tile (
    number      bigint PRIMARY KEY,                                     -- of events 256 × number + 1 to 256 × (number + 1)
    root        bytea NOT NULL
);
GRANT SELECT ON audit_minimum, audit_tile TO cloister_api, cloister_sentinel;

-- The chain, as in 0027; and that events end, only `audit_announce` says.
DROP FUNCTION audit_chain(text[], text[], boolean);
CREATE FUNCTION audit_chain(bodies text[], personals text[], is_ours boolean) RETURNS bigint
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
        IF (CASE WHEN personal IS NULL
                 THEN (strpos(body, '"personal"') > 0 OR strpos(body, '\') > 0) AND body::jsonb ? 'personal'
                 ELSE right(body, 86) <> ',"personal":"sha256:' || encode(sha256(convert_to(personal, 'UTF8')), 'hex') || '"}'
                      OR personal NOT LIKE '{"salt":"______________________"%' OR personal::jsonb ? 'erasure' END)
           OR did IN ('audit.forget', 'audit.minimum') AND NOT is_ours THEN
            PERFORM refuse('an event is not appended so', did);
        END IF;
    END LOOP;
    UPDATE audit_head SET seq = head.seq, hash = head.hash;
    RETURN head.seq;
END $$;

-- Of hashes as leaves (RFC 9162 §2.1): pairs, and what is left over goes up as it is, which is the same tree.
CREATE FUNCTION merkle_root(hashes bytea[]) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    WHILE cardinality(hashes) > 1 LOOP
        hashes := ARRAY(
            SELECT CASE count(*) WHEN 2 THEN sha256('\x01'::bytea || string_agg(hash, ''::bytea ORDER BY place))
                                 ELSE string_agg(hash, ''::bytea) END
              FROM unnest(hashes) WITH ORDINALITY AS it (hash, place) GROUP BY (place - 1) / 2 ORDER BY (place - 1) / 2);
    END LOOP;
    RETURN hashes[1];
END $$;

-- A leaf: the event's text, or where it is too long for a tile, its digest (trust/audit/checkpoints.py).
CREATE FUNCTION audit_leaf(body text) RETURNS bytea
    LANGUAGE sql IMMUTABLE
    RETURN sha256('\x00'::bytea || CASE WHEN octet_length(body) <= 65535 THEN convert_to(body, 'UTF8')
        ELSE convert_to('sha256 ' || encode(sha256(convert_to(body, 'UTF8')), 'hex'), 'UTF8') END);

CREATE FUNCTION audit_pruned_up_to() RETURNS bigint
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT coalesce(max(seq), 0) FROM audit_minimum WHERE reached_at IS NOT NULL
$$;

-- The last event that may go if events are kept for so many days, looking at `most` of them at once, and what keeps the next. An event
-- stays while
--
--   age         it is younger; and the last that is not, which is the proof that those before it were old
--   hold        it is of a project under a legal hold
--   statements  the segment that it vouches for can still be read
--   recording   the recording that it vouches for can still be read
--   sentinel    the sentinel has not looked at it
--   export      a target, or a witness, has not taken it
--
-- and so does every event after it.
CREATE FUNCTION audit_prunable(kept_days integer, most bigint, OUT up_to bigint, OUT kept_by text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    low     bigint := audit_pruned_up_to();
    high    bigint := least((SELECT seq FROM audit_head), low + most);
    before  text := to_char((clock_timestamp() - make_interval(days => kept_days)) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
    first   bigint;
BEGIN
    up_to := low;
    IF kept_days IS NULL THEN
        kept_by := 'age';
        RETURN;
    END IF;
    -- What has no time that can be read is not old.
    SELECT greatest(seq - 1, low + 1) INTO first FROM audit_event
     WHERE seq > low AND seq <= high AND (at < before AND at ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$') IS NOT TRUE
     ORDER BY seq LIMIT 1;
    first := coalesce(first, high);
    SELECT it.what, it.seq INTO kept_by, first
      FROM (SELECT 'age', first
             UNION ALL
            SELECT 'hold', min(e.seq) FROM audit_event e
             WHERE e.seq > low AND e.seq < first
               AND e.project_id IN (SELECT h.project_id FROM audit_hold h WHERE h.lifted_at IS NULL)
             UNION ALL
            SELECT 'statements', min(e.seq) FROM audit_event e
             WHERE e.seq > low AND e.seq < first AND e.action = 'statements.seal'
               AND EXISTS (SELECT FROM statement_segment s LEFT JOIN statement_key k USING (project_id, generation)
                            WHERE s.id = audit_segment(e.body) AND s.project_id = e.project_id AND k.erased_at IS NULL)
             UNION ALL
            SELECT 'recording', min(e.seq) FROM audit_event e
             WHERE e.seq > low AND e.seq < first AND e.action IN ('recording.start', 'recording.end')
               AND EXISTS (SELECT FROM recording r
                            WHERE r.id::text = e.body::jsonb ->> 'resource' AND r.wrapped_key IS NOT NULL)
             UNION ALL
            SELECT 'sentinel', min(seq) + 1 FROM sentinel
             UNION ALL
            SELECT 'export', min(seq) + 1 FROM audit_export) it (what, seq)
     WHERE it.seq IS NOT NULL ORDER BY it.seq, it.what LIMIT 1;
    up_to := greatest(low, (first - 1) / 256 * 256);
END $$;

-- The number of the segment that this event sealed.
CREATE FUNCTION audit_segment(body text) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    RETURN substring(body::jsonb ->> 'resource' FROM '^segment/([0-9]{1,18})$')::bigint;

-- Says in the log up to which event all go, with the hashes that stay. Nothing goes yet. That last event; NULL where nothing is to go. One
-- at a time: while one is announced, it is that.
CREATE FUNCTION audit_announce(most bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    days    integer := retention_of(NULL, 'events');
    low     bigint := audit_pruned_up_to();
    high    bigint := (SELECT seq FROM audit_minimum WHERE reached_at IS NULL);
    whole   bytea;
    last    audit_event%ROWTYPE;
    told    json;
BEGIN
    IF high IS NOT NULL THEN
        RETURN high;
    END IF;
    high := (SELECT up_to FROM audit_prunable(days, most));
    IF high = low THEN
        RETURN NULL;
    END IF;
    IF (SELECT count(*) FROM audit_event WHERE seq > low AND seq <= high) <> high - low THEN
        PERFORM refuse('events are missing among those that would go', format('%s to %s', low + 1, high));
    END IF;
    INSERT INTO audit_tile (number, root)
        SELECT (seq - 1) / 256, merkle_root(array_agg(audit_leaf(body) ORDER BY seq))
          FROM audit_event WHERE seq > low AND seq <= high GROUP BY (seq - 1) / 256;
    whole := merkle_root(ARRAY(SELECT root FROM audit_tile ORDER BY number));
    SELECT * INTO STRICT last FROM audit_event WHERE seq = high;
    told := json_build_object(
        'action', 'audit.minimum',
        'actor', 'platform:api',
        'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'outcome', 'ok',
        'resource', format('minimum/%s', high),
        'reason', 'retention',
        'details', json_build_object(
            'days', days, 'after', low, 'up_to', high, 'hash', encode(last.hash, 'hex'), 'root', encode(whole, 'hex'), 'last_at', last.at));
    INSERT INTO audit_minimum (seq, hash, root, told_by)
        VALUES (high, last.hash, whole, audit_chain(ARRAY[told::text], '{}', true));
    RETURN high;
END $$;

-- What was announced, once a checkpoint of `signed` events covers the announcement: the events go, and segments of statements that nobody
-- can read and no event vouches for any more. NULL where nothing was announced, or where it must not be yet, or not any more.
CREATE FUNCTION audit_reach(signed bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    due     audit_minimum%ROWTYPE;
    low     bigint := audit_pruned_up_to();
BEGIN
    SELECT * INTO due FROM audit_minimum WHERE reached_at IS NULL FOR UPDATE;
    IF due.seq IS NULL OR coalesce(signed, 0) < due.told_by THEN
        RETURN NULL;
    END IF;
    -- Lets nobody place a hold between this look and the end of the transaction; see `refuse_if_held`.
    PERFORM FROM project
      WHERE id IN (SELECT project_id FROM audit_event WHERE seq > low AND seq <= due.seq) ORDER BY id FOR SHARE;
    IF (SELECT up_to FROM audit_prunable(retention_of(NULL, 'events'), due.seq + 256 - low)) < due.seq THEN
        RETURN NULL;
    END IF;
    DELETE FROM statement_segment s USING audit_event e
     WHERE e.seq > low AND e.seq <= due.seq AND e.action = 'statements.seal'
       AND s.id = audit_segment(e.body) AND s.project_id = e.project_id;
    DELETE FROM audit_event WHERE seq <= due.seq;
    UPDATE audit_minimum SET reached_at = clock_timestamp() WHERE seq = due.seq;
    RETURN due.seq;
END $$;

REVOKE ALL ON FUNCTION audit_chain(text[], text[], boolean), merkle_root(bytea[]), audit_leaf(text), audit_pruned_up_to(),
    audit_prunable(integer, bigint), audit_segment(text), audit_announce(bigint), audit_reach(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_prunable(integer, bigint), audit_announce(bigint), audit_reach(bigint) TO cloister_api;
