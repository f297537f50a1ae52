-- Branches as they were at a point, for clients that asked to see them there.

SET search_path = cloister, pg_catalog;

-- A read-only compute on a timeline of its own. The row comes before either of them and goes after both, so whatever is
-- found on the node without a row is nobody's. The timeline belongs to no branch: protection is not its concern.
CREATE TABLE standby (
    id              text PRIMARY KEY,               -- of its compute: formed like an endpoint's, and no endpoint's
    project_id      text NOT NULL REFERENCES project (id),
    branch_id       text NOT NULL REFERENCES branch (id),
    point           text NOT NULL,                  -- base/past.py
    timeline_id     text NOT NULL UNIQUE REFERENCES timeline (id),
    is_ending       boolean NOT NULL DEFAULT false,
    generation      bigint NOT NULL DEFAULT 0,      -- of the running compute
    socket_dir      text,                           -- of the running compute; NULL while it is made or taken away
    last_active_at  timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (branch_id, point),
    CHECK (NOT is_ending OR socket_dir IS NULL)
);
CREATE INDEX standby_of_project ON standby (project_id);
GRANT SELECT, INSERT, UPDATE, DELETE ON standby TO cloister_api;
