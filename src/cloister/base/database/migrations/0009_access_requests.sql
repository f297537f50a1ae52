-- Approved access to a project's data: who asked, who agreed, until when, and what was recorded of it. docs/approved-access.md
-- explains; control/access decides. What must hold whatever a process of ours does is held here.

SET search_path = cloister, pg_catalog;

-- When somebody of the organization is on call, and so may decide as its managers may.
CREATE TABLE on_call (
    id          uuid PRIMARY KEY,
    org_id      text NOT NULL,
    account_id  uuid NOT NULL,
    starts_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL CHECK (ends_at > starts_at),
    FOREIGN KEY (org_id, account_id) REFERENCES membership (org_id, account_id) ON DELETE CASCADE
);
CREATE INDEX on_call_of_account ON on_call (account_id, ends_at);
GRANT SELECT, INSERT, DELETE ON on_call TO cloister_api;

CREATE TABLE access_request (
    id              uuid PRIMARY KEY,
    org_id          text NOT NULL REFERENCES organization (id),
    project_id      text NOT NULL REFERENCES project (id),
    branch_id       text NOT NULL REFERENCES branch (id),
    account_id      uuid NOT NULL REFERENCES account (id),      -- whose it is
    reason          text NOT NULL CHECK (reason <> ''),
    duration_s      integer NOT NULL CHECK (duration_s BETWEEN 60 AND 28800),
    may_write       boolean NOT NULL,
    is_break_glass  boolean NOT NULL,
    state           text NOT NULL DEFAULT 'pending'
                        CHECK (state IN ('pending', 'active', 'denied', 'expired', 'revoked', 'ended')),
    requested_at    timestamptz NOT NULL,
    answer_by       timestamptz NOT NULL,
    ends_at         timestamptz,
    closed_at       timestamptz,
    role            text NOT NULL UNIQUE CHECK (role ~ '^cloister_access_[0-9a-f]{32}$'),
    verifier        text,                                       -- what the gateway holds a password against
    role_made_at    timestamptz,                                -- set before the role is made in the branch
    role_dropped_at timestamptz,
    CHECK ((state IN ('pending', 'active')) = (closed_at IS NULL)),
    CHECK (state <> 'active' OR ends_at IS NOT NULL),
    CHECK (ends_at IS NULL OR ends_at <= answer_by + make_interval(secs => duration_s)),
    UNIQUE (id, account_id)
);
CREATE INDEX access_request_of_project ON access_request (project_id, requested_at);
CREATE INDEX access_request_open ON access_request (branch_id)
    WHERE state IN ('pending', 'active') OR (role_made_at IS NOT NULL AND role_dropped_at IS NULL);
GRANT SELECT, INSERT, UPDATE ON access_request TO cloister_api;

-- Nobody agrees to their own request: the row names whose request it is, and the database compares.
CREATE TABLE access_approval (
    request_id  uuid NOT NULL,
    account_id  uuid NOT NULL,
    approved_by uuid NOT NULL REFERENCES account (id),
    approved_at timestamptz NOT NULL,
    PRIMARY KEY (request_id, approved_by),
    FOREIGN KEY (request_id, account_id) REFERENCES access_request (id, account_id),
    CONSTRAINT not_by_oneself CHECK (approved_by <> account_id)
);
GRANT SELECT, INSERT ON access_approval TO cloister_api;

-- No request becomes active without its approvals, goes back to an earlier state, or changes what was agreed to.
CREATE FUNCTION access_request_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' OR NEW.ends_at IS NOT NULL THEN
            PERFORM refuse('a request for access begins as pending', NEW.id::text);
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.id, NEW.org_id, NEW.project_id, NEW.branch_id, NEW.account_id, NEW.reason, NEW.duration_s, NEW.may_write,
        NEW.is_break_glass, NEW.requested_at, NEW.answer_by, NEW.role)
       IS DISTINCT FROM
       (OLD.id, OLD.org_id, OLD.project_id, OLD.branch_id, OLD.account_id, OLD.reason, OLD.duration_s, OLD.may_write,
        OLD.is_break_glass, OLD.requested_at, OLD.answer_by, OLD.role) THEN
        PERFORM refuse('what was asked for cannot be changed', OLD.id::text);
    END IF;
    IF OLD.state <> NEW.state AND NOT (OLD.state = 'pending' OR (OLD.state = 'active' AND NEW.state IN ('revoked', 'ended'))) THEN
        PERFORM refuse('access that is over does not come back', OLD.id::text);
    END IF;
    IF OLD.ends_at IS NOT NULL AND (NEW.ends_at IS NULL OR NEW.ends_at > OLD.ends_at) THEN
        PERFORM refuse('access is not extended: ask again', OLD.id::text);
    END IF;
    IF OLD.state <> 'active' AND NEW.state = 'active'
       AND (SELECT count(*) FROM access_approval WHERE request_id = OLD.id)
           < (CASE WHEN OLD.is_break_glass THEN 2 ELSE 1 END) THEN
        PERFORM refuse('access needs its approvals', OLD.id::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER access_request_holds BEFORE INSERT OR UPDATE ON access_request
    FOR EACH ROW EXECUTE FUNCTION access_request_holds();
ALTER TABLE access_request ENABLE ALWAYS TRIGGER access_request_holds;
REVOKE ALL ON FUNCTION access_request_holds() FROM PUBLIC;

-- One recorded session. The chunks are sealed, and each hashes the one before it; `head` is the last.
CREATE TABLE recording (
    id           uuid PRIMARY KEY,
    request_id   uuid NOT NULL REFERENCES access_request (id),
    project_id   text NOT NULL,
    account_id   uuid NOT NULL,                     -- who is recorded
    wrapped_key  bytea NOT NULL,
    address      text NOT NULL,
    database     text NOT NULL,
    application  text NOT NULL,
    session_id   text NOT NULL,                     -- of the connection's audit events
    began_at     timestamptz NOT NULL,
    ended_at     timestamptz,
    reason       text NOT NULL DEFAULT '',          -- why it ended
    chunks       integer NOT NULL DEFAULT 0,
    statements   bigint NOT NULL DEFAULT 0,
    head         bytea NOT NULL
);
CREATE INDEX recording_of_request ON recording (request_id);
CREATE INDEX recording_open ON recording (request_id) WHERE ended_at IS NULL;
GRANT SELECT, INSERT, UPDATE ON recording TO cloister_api;

CREATE TABLE recording_chunk (
    recording_id uuid NOT NULL REFERENCES recording (id),
    index        integer NOT NULL,
    sealed       bytea NOT NULL,
    PRIMARY KEY (recording_id, index)
);
GRANT SELECT, INSERT ON recording_chunk TO cloister_api;
