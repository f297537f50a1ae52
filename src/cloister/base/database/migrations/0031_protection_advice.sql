-- Which branches should be protected and are not, and since when: so that it is said once. control/branches/advising.py has the reasons.

SET search_path = cloister, pg_catalog;

-- Where work begins: the default branch, and what has no parent. With data that is tagged, its own or by its project, and no end.
CREATE VIEW unguarded_branch AS
    SELECT b.id, b.name, p.id AS project_id, p.org_id, kept_tags(joined_tags(b.tags, p.tags)) AS tags
      FROM branch b JOIN project p ON p.id = b.project_id
     WHERE (b.is_default OR b.parent_id IS NULL) AND NOT b.is_protected AND b.expires_at IS NULL
       AND b.deleted_at IS NULL AND p.deleted_at IS NULL
       AND (b.tags && ARRAY['pii', 'prod'] OR p.tags && ARRAY['pii', 'prod']);

CREATE TABLE protection_advice (
    branch_id   text PRIMARY KEY REFERENCES branch (id) ON DELETE CASCADE,
    since       timestamptz NOT NULL,
    told_at     timestamptz
);
CREATE INDEX protection_advice_due ON protection_advice (since) WHERE told_at IS NULL;

GRANT SELECT ON unguarded_branch TO cloister_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON protection_advice TO cloister_api;
