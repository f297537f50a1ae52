-- A legal hold: while it stands, nothing of what was recorded of a project is erased, by whatever way. One person places it, two
-- lift it. docs/adr/0038-legal-holds.md has the reasons.

SET search_path = cloister, pg_catalog;

CREATE TABLE audit_hold (
    id              uuid PRIMARY KEY,
    project_id      text NOT NULL REFERENCES project (id),
    reason          text NOT NULL CHECK (reason <> ''),
    placed_by       uuid NOT NULL REFERENCES account (id),
    placed_at       timestamptz NOT NULL DEFAULT now(),
    lift_reason     text CHECK (lift_reason <> ''),
    lift_asked_by   uuid REFERENCES account (id),
    lift_asked_at   timestamptz,
    lifted_by       uuid REFERENCES account (id),
    lifted_at       timestamptz,
    CONSTRAINT not_by_oneself CHECK (lifted_by <> lift_asked_by),
    CHECK (num_nulls(lift_reason, lift_asked_by, lift_asked_at) IN (0, 3)),
    CHECK ((lifted_by IS NULL) = (lifted_at IS NULL)),
    CHECK (lifted_at IS NULL OR lift_asked_at IS NOT NULL),
    CHECK (lifted_at <= lift_asked_at + interval '7 days')
);
CREATE INDEX audit_hold_of_project ON audit_hold (project_id, placed_at);
GRANT SELECT, INSERT (id, project_id, reason, placed_by), UPDATE (lift_reason, lift_asked_by, lifted_by) ON audit_hold
    TO cloister_api;

-- Placed, asked to be lifted, lifted: each by the database's clock, and never two at once. A hold that was lifted is history.
CREATE FUNCTION audit_hold_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- Whoever is just erasing has this row; see `refuse_if_held`.
        PERFORM FROM project WHERE id = NEW.project_id FOR NO KEY UPDATE;
        IF num_nonnulls(NEW.lift_asked_by, NEW.lifted_by) > 0 THEN
            PERFORM refuse('a hold stands when it is placed', NEW.id::text);
        END IF;
        NEW.placed_at := now();
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR OLD.lifted_by IS NOT NULL
       OR (NEW.id, NEW.project_id, NEW.reason, NEW.placed_by, NEW.placed_at) IS DISTINCT FROM
          (OLD.id, OLD.project_id, OLD.reason, OLD.placed_by, OLD.placed_at) THEN
        PERFORM refuse('a hold is lifted once, as it was placed', OLD.id::text);
    END IF;
    IF NEW.lifted_by IS NULL THEN
        NEW.lift_asked_at := now();
        RETURN NEW;
    END IF;
    IF (NEW.lift_reason, NEW.lift_asked_by, NEW.lift_asked_at) IS DISTINCT FROM
       (OLD.lift_reason, OLD.lift_asked_by, OLD.lift_asked_at) THEN
        PERFORM refuse('a hold is lifted as somebody asked for it', OLD.id::text);
    END IF;
    NEW.lifted_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER audit_hold_holds BEFORE INSERT OR UPDATE OR DELETE ON audit_hold
    FOR EACH ROW EXECUTE FUNCTION audit_hold_holds();
ALTER TABLE audit_hold ENABLE ALWAYS TRIGGER audit_hold_holds;

-- The lock lets nobody place a hold between this look and the end of the transaction that erases.
CREATE FUNCTION refuse_if_held(whose text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM project WHERE id = whose FOR SHARE;
    IF EXISTS (SELECT FROM audit_hold WHERE project_id = whose AND lifted_at IS NULL) THEN
        PERFORM refuse('what is recorded of this project is under a legal hold, and stays until that is lifted', whose);
    END IF;
END $$;

-- Every way in which a record ends: its own key; the keys above it, now or on a day; the project. And giving the project to an
-- organization whose admins could lift the hold.
CREATE FUNCTION legal_hold() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM refuse_if_held(CASE TG_TABLE_NAME WHEN 'project' THEN to_jsonb(OLD) ->> 'id'
                           ELSE to_jsonb(coalesce(OLD, NEW)) ->> 'project_id' END);
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER statement_erasure_hold BEFORE INSERT ON statement_erasure
    FOR EACH ROW EXECUTE FUNCTION legal_hold();
CREATE TRIGGER statement_key_hold BEFORE UPDATE OF wrapped ON statement_key
    FOR EACH ROW WHEN (OLD.wrapped IS NOT NULL AND NEW.wrapped IS NULL) EXECUTE FUNCTION legal_hold();
-- A version that a newer one replaced takes nothing along.
CREATE TRIGGER wrapped_key_hold BEFORE UPDATE OF state, wrapped ON wrapped_key
    FOR EACH ROW WHEN (OLD.purpose IN ('project', 'statements') AND OLD.wrapped IS NOT NULL AND NEW.wrapped IS NULL
          AND NOT cloister.is_superseded(OLD))
    EXECUTE FUNCTION legal_hold();
CREATE TRIGGER wrapped_key_deletion_hold BEFORE DELETE ON wrapped_key
    FOR EACH ROW WHEN (OLD.purpose IN ('project', 'statements')) EXECUTE FUNCTION legal_hold();
CREATE TRIGGER key_ring_hold BEFORE UPDATE OF state ON key_ring
    FOR EACH ROW WHEN (NEW.state = 'pending_destruction') EXECUTE FUNCTION legal_hold();
CREATE TRIGGER project_hold BEFORE UPDATE OF deleted_at, org_id ON project
    FOR EACH ROW WHEN (OLD.org_id <> NEW.org_id OR (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL))
    EXECUTE FUNCTION legal_hold();
ALTER TABLE statement_erasure ENABLE ALWAYS TRIGGER statement_erasure_hold;
ALTER TABLE statement_key ENABLE ALWAYS TRIGGER statement_key_hold;
ALTER TABLE wrapped_key ENABLE ALWAYS TRIGGER wrapped_key_hold;
ALTER TABLE wrapped_key ENABLE ALWAYS TRIGGER wrapped_key_deletion_hold;
ALTER TABLE key_ring ENABLE ALWAYS TRIGGER key_ring_hold;
ALTER TABLE project ENABLE ALWAYS TRIGGER project_hold;
REVOKE ALL ON FUNCTION audit_hold_holds(), refuse_if_held(text), legal_hold() FROM PUBLIC;
