-- Reviews of who may what in an organization: every right is kept or taken back by somebody, within a time. docs/access-reviews.md
-- explains; control/reviews decides.

SET search_path = cloister, pg_catalog;

-- How often one begins by itself. None: only when somebody begins one.
CREATE TABLE access_review_policy (
    org_id      text PRIMARY KEY REFERENCES organization (id),
    every_days  integer NOT NULL CHECK (every_days BETWEEN 7 AND 366),
    answer_days integer NOT NULL CHECK (answer_days BETWEEN 1 AND 60 AND answer_days < every_days),
    lapses      boolean NOT NULL,
    since       timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON access_review_policy TO cloister_api;

CREATE TABLE access_review (
    id          uuid PRIMARY KEY,
    org_id      text NOT NULL REFERENCES organization (id),
    started_by  text NOT NULL,                      -- an address, or the platform
    started_at  timestamptz NOT NULL,
    due_at      timestamptz NOT NULL CHECK (due_at > started_at),
    lapses      boolean NOT NULL,                   -- what nobody answers for is taken back
    closed_at   timestamptz,
    report      text,                               -- of a closed one, as it was hashed
    digest      text,                               -- its SHA-256, which the audit log has as well
    CHECK ((closed_at IS NULL) = (report IS NULL)),
    CHECK ((closed_at IS NULL) = (digest IS NULL))
);
CREATE UNIQUE INDEX access_review_open ON access_review (org_id) WHERE closed_at IS NULL;
CREATE INDEX access_review_of_organization ON access_review (org_id, started_at);
GRANT SELECT, INSERT, UPDATE ON access_review TO cloister_api;

-- One right. Nobody answers for their own: the row names whose it is, and the database compares.
CREATE TABLE access_review_item (
    review_id   uuid NOT NULL REFERENCES access_review (id),
    number      integer NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('member', 'grant', 'key', 'shift')),
    subject     text NOT NULL,                      -- the account's, the grant's, the key's or the shift's id
    project_id  text,
    account_id  uuid,                               -- whose it is; nobody's, for a key of the organization
    facts       jsonb NOT NULL,                     -- as they were when the review began
    decision    text CHECK (decision IN ('kept', 'removed', 'lapsed', 'gone', 'held', 'unanswered')),
    decided_by  uuid REFERENCES account (id),
    decided_at  timestamptz,
    note        text NOT NULL DEFAULT '',
    PRIMARY KEY (review_id, number),
    CONSTRAINT not_by_oneself CHECK (decided_by IS NULL OR account_id IS NULL OR decided_by <> account_id),
    CHECK ((decision IS NULL) = (decided_at IS NULL)),
    CHECK ((decided_by IS NOT NULL) = (decision IN ('kept', 'removed')) OR decision IS NULL OR decision = 'gone')
);
GRANT SELECT, INSERT, UPDATE ON access_review_item TO cloister_api;

-- What was reviewed and answered stays as it was.
CREATE FUNCTION access_review_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.closed_at IS NOT NULL
       OR (NEW.id, NEW.org_id, NEW.started_by, NEW.started_at, NEW.due_at, NEW.lapses)
          IS DISTINCT FROM (OLD.id, OLD.org_id, OLD.started_by, OLD.started_at, OLD.due_at, OLD.lapses) THEN
        PERFORM refuse('a review stays as it was', OLD.id::text);
    END IF;
    IF NEW.closed_at IS NOT NULL
       AND EXISTS (SELECT FROM access_review_item WHERE review_id = OLD.id AND decision IS NULL) THEN
        PERFORM refuse('a review ends when everything is answered', OLD.id::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER access_review_holds BEFORE UPDATE ON access_review
    FOR EACH ROW EXECUTE FUNCTION access_review_holds();
ALTER TABLE access_review ENABLE ALWAYS TRIGGER access_review_holds;

CREATE FUNCTION access_review_item_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.decision IS NOT NULL
       OR (NEW.review_id, NEW.number, NEW.kind, NEW.subject, NEW.project_id, NEW.account_id, NEW.facts)
          IS DISTINCT FROM (OLD.review_id, OLD.number, OLD.kind, OLD.subject, OLD.project_id, OLD.account_id, OLD.facts)) THEN
        PERFORM refuse('what was answered in a review stays', OLD.review_id::text);
    END IF;
    IF EXISTS (SELECT FROM access_review WHERE id = NEW.review_id AND closed_at IS NOT NULL) THEN
        PERFORM refuse('the review is closed', NEW.review_id::text);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER access_review_item_holds BEFORE INSERT OR UPDATE ON access_review_item
    FOR EACH ROW EXECUTE FUNCTION access_review_item_holds();
ALTER TABLE access_review_item ENABLE ALWAYS TRIGGER access_review_item_holds;
REVOKE ALL ON FUNCTION access_review_holds(), access_review_item_holds() FROM PUBLIC;
