-- What a project's clients executed can be erased, a month at a time: two people agree, and the database holds that.
-- docs/adr/0032-erasing-statements.md has the reasons.

SET search_path = cloister, pg_catalog;

ALTER TABLE statement_key
    ADD COLUMN erased_at timestamptz,
    ALTER COLUMN wrapped DROP NOT NULL,
    ADD CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL));
GRANT UPDATE (wrapped, erased_at) ON statement_key TO cloister_api;
GRANT SELECT (project_id, generation, erased_at) ON statement_key TO cloister_keys;

CREATE TABLE statement_erasure (
    id          uuid PRIMARY KEY,
    project_id  text NOT NULL REFERENCES project (id),
    up_to       timestamptz,                            -- NULL: everything
    reason      text NOT NULL CHECK (reason <> ''),
    asked_by    uuid NOT NULL REFERENCES account (id),
    asked_at    timestamptz NOT NULL DEFAULT now(),
    agreed_by   uuid REFERENCES account (id),
    agreed_at   timestamptz,
    CONSTRAINT not_by_oneself CHECK (agreed_by <> asked_by),
    CHECK ((agreed_by IS NULL) = (agreed_at IS NULL)),
    CHECK (agreed_at <= asked_at + interval '7 days')
);
CREATE INDEX statement_erasure_of_project ON statement_erasure (project_id, asked_at);
GRANT SELECT, INSERT (id, project_id, up_to, reason, asked_by), UPDATE (agreed_by) ON statement_erasure TO cloister_api;

-- Agreed to once, by the database's clock; nothing else about it changes.
CREATE FUNCTION statement_erasure_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.agreed_by IS NOT NULL OR NEW.agreed_by IS NULL
       OR (NEW.id, NEW.project_id, NEW.reason, NEW.asked_by, NEW.asked_at) IS DISTINCT FROM
          (OLD.id, OLD.project_id, OLD.reason, OLD.asked_by, OLD.asked_at)
       OR NEW.up_to IS DISTINCT FROM OLD.up_to THEN
        PERFORM refuse('an erasure is agreed to once, as it was asked for', OLD.id::text);
    END IF;
    NEW.agreed_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER statement_erasure_holds BEFORE UPDATE ON statement_erasure
    FOR EACH ROW EXECUTE FUNCTION statement_erasure_holds();
ALTER TABLE statement_erasure ENABLE ALWAYS TRIGGER statement_erasure_holds;

-- The one change of a key is its end: in the transaction in which somebody agreed to that, and only if nothing was sealed
-- with it at that moment or after.
CREATE FUNCTION statement_key_ends() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.wrapped IS NULL OR NEW.wrapped IS NOT NULL
       OR (NEW.project_id, NEW.generation, NEW.public, NEW.began_at) IS DISTINCT FROM
          (OLD.project_id, OLD.generation, OLD.public, OLD.began_at) THEN
        PERFORM refuse('a key of the statement log does not change', OLD.project_id);
    END IF;
    PERFORM FROM statement_erasure e
      WHERE e.project_id = OLD.project_id AND e.agreed_at = now()
        AND (e.up_to IS NULL OR NOT EXISTS (
                SELECT FROM statement_segment s
                 WHERE s.project_id = OLD.project_id AND s.generation = OLD.generation AND s.sealed_at >= e.up_to));
    IF NOT FOUND THEN
        PERFORM refuse('nobody agreed to erasing these statements', OLD.project_id);
    END IF;
    NEW.erased_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER statement_key_ends BEFORE UPDATE OR DELETE ON statement_key
    FOR EACH ROW EXECUTE FUNCTION statement_key_ends();
ALTER TABLE statement_key ENABLE ALWAYS TRIGGER statement_key_ends;
REVOKE ALL ON FUNCTION statement_erasure_holds(), statement_key_ends() FROM PUBLIC;
