-- What branches take, by the hour: how long their computes ran, what they wrote, what they hold. control/consumption counts.

SET search_path = cloister, pg_catalog;

-- Hours of the last days; before that, days (under their first hour). Bytes that are held are in byte-seconds. Deleted branches
-- and projects stay: they took what they took. Floating point, because a tenant's server says where its WAL ends, and a number
-- that it made up must not overflow in a count of everybody's.
CREATE TABLE consumption (
    org_id          text NOT NULL REFERENCES organization (id),     -- whose the project was then
    project_id      text NOT NULL REFERENCES project (id),
    branch_id       text NOT NULL,
    hour            timestamptz NOT NULL,
    active_s        double precision NOT NULL,
    cu_s            double precision NOT NULL,
    written_bytes   double precision NOT NULL,
    seen_s          double precision NOT NULL,                      -- for how long the next four were known
    logical_byte_s  double precision NOT NULL,
    root_byte_s     double precision NOT NULL,
    child_byte_s    double precision NOT NULL,
    history_byte_s  double precision NOT NULL,
    PRIMARY KEY (project_id, branch_id, hour, org_id)
);
CREATE INDEX consumption_of_organization ON consumption (org_id, hour);
CREATE INDEX consumption_by_hour ON consumption (hour);
GRANT SELECT, INSERT, UPDATE, DELETE ON consumption TO cloister_api;

-- Up to when it is counted: one row.
CREATE TABLE consumption_counted (
    is_the_only boolean PRIMARY KEY DEFAULT true CHECK (is_the_only),
    until       timestamptz
);
GRANT SELECT, INSERT, UPDATE ON consumption_counted TO cloister_api;

ALTER TABLE timeline
    ADD COLUMN end_lsn pg_lsn,          -- where its WAL ends, as the agent last said
    ADD COLUMN counted_lsn pg_lsn;      -- and up to where it is counted
