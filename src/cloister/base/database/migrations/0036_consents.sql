-- Where an organization wants that: no data of a protected branch comes to lie in another one by one person's word.
-- docs/adr/0053-consents.md has the reasons.
--
-- One asks, another agrees within the hour, and within the next the one who asked does it, once. The protection itself is taken
-- off in the same way: it would be the way around. And so is the demand.

SET search_path = cloister, pg_catalog;

-- ── what an organization demands ──

CREATE TABLE consent_policy (
    org_id          text PRIMARY KEY REFERENCES organization (id),
    is_required     boolean NOT NULL,
    lift_asked_by   uuid REFERENCES account (id),
    lift_asked_at   timestamptz,
    lifted_by       uuid REFERENCES account (id),
    CONSTRAINT not_by_oneself CHECK (lifted_by <> lift_asked_by),
    CHECK ((lift_asked_by IS NULL) = (lift_asked_at IS NULL)),
    CHECK (is_required = (lifted_by IS NULL))
);
GRANT SELECT, INSERT (org_id, is_required), UPDATE (is_required, lift_asked_by, lifted_by) ON consent_policy TO cloister_api;

CREATE FUNCTION consent_policy_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF num_nonnulls(NEW.lift_asked_by, NEW.lift_asked_at, NEW.lifted_by) > 0 OR NOT NEW.is_required THEN
            PERFORM refuse('a demand is lifted after it was made', NEW.org_id);
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.org_id = OLD.org_id AND NEW.is_required THEN
        -- Made; asked to be lifted; or, without a name, not any more.
        NEW.lift_asked_at := CASE WHEN NEW.lift_asked_by IS NOT NULL THEN now() END;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR NEW.org_id <> OLD.org_id OR NOT OLD.is_required
       OR OLD.lift_asked_by IS NULL OR OLD.lift_asked_at < now() - interval '7 days'
       OR (NEW.lift_asked_by, NEW.lift_asked_at) IS DISTINCT FROM (OLD.lift_asked_by, OLD.lift_asked_at) THEN
        PERFORM refuse('a demand for consent is lifted by two people', OLD.org_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER consent_policy_holds BEFORE INSERT OR UPDATE OR DELETE ON consent_policy
    FOR EACH ROW EXECUTE FUNCTION consent_policy_holds();
ALTER TABLE consent_policy ENABLE ALWAYS TRIGGER consent_policy_holds;

-- ── one consent ──

CREATE TABLE consent (
    id          uuid PRIMARY KEY,
    branch_id   text NOT NULL REFERENCES branch (id),           -- the protected one
    act         text NOT NULL CHECK (act IN ('copy', 'unprotect')),
    reason      text NOT NULL CHECK (reason <> ''),
    asked_by    uuid NOT NULL REFERENCES account (id),          -- of an organization's key: who made it
    asked_as    text NOT NULL CHECK (asked_as <> ''),           -- as the audit log names them; nobody else may use it
    asked_at    timestamptz NOT NULL DEFAULT now(),
    agreed_by   uuid REFERENCES account (id),
    agreed_at   timestamptz,
    used_for    text,                                           -- the branch that the data comes to lie in
    used_at     timestamptz,
    used_xid    xid8,
    CONSTRAINT not_by_oneself CHECK (agreed_by <> asked_by),
    CHECK ((agreed_by IS NULL) = (agreed_at IS NULL)),
    CHECK (agreed_at <= asked_at + interval '1 hour'),
    CHECK (num_nulls(used_for, used_at, used_xid) IN (0, 3)),
    CHECK (used_at IS NULL OR agreed_at IS NOT NULL),
    CHECK (used_at <= agreed_at + interval '1 hour')
);
CREATE INDEX consent_of_branch ON consent (branch_id, asked_at);
GRANT SELECT, INSERT (id, branch_id, act, reason, asked_by, asked_as), UPDATE (agreed_by, used_for) ON consent TO cloister_api;

-- Asked for, agreed to, used: each by the database's clock, once, and never two at a time.
CREATE FUNCTION consent_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF num_nonnulls(NEW.agreed_by, NEW.agreed_at, NEW.used_for, NEW.used_at, NEW.used_xid) > 0 THEN
            PERFORM refuse('a consent is given after it was asked for', NEW.id::text);
        END IF;
        NEW.asked_at := now();
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR OLD.used_for IS NOT NULL
       OR (NEW.id, NEW.branch_id, NEW.act, NEW.reason, NEW.asked_by, NEW.asked_as, NEW.asked_at) IS DISTINCT FROM
          (OLD.id, OLD.branch_id, OLD.act, OLD.reason, OLD.asked_by, OLD.asked_as, OLD.asked_at) THEN
        PERFORM refuse('a consent is used once, as it was asked for', OLD.id::text);
    END IF;
    IF OLD.agreed_by IS NULL THEN
        IF NEW.agreed_by IS NULL OR NEW.used_for IS NOT NULL THEN
            PERFORM refuse('a consent is used after it was given', OLD.id::text);
        END IF;
        NEW.agreed_at := now();
        RETURN NEW;
    END IF;
    IF NEW.agreed_by IS DISTINCT FROM OLD.agreed_by OR NEW.used_for IS NULL THEN
        PERFORM refuse('a consent is given once', OLD.id::text);
    END IF;
    NEW.used_at := now();
    NEW.used_xid := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER consent_holds BEFORE INSERT OR UPDATE OR DELETE ON consent
    FOR EACH ROW EXECUTE FUNCTION consent_holds();
ALTER TABLE consent ENABLE ALWAYS TRIGGER consent_holds;

-- ── what takes one ──

CREATE FUNCTION needs_consent(branch text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM cloister.branch b JOIN project p ON p.id = b.project_id
                     JOIN consent_policy c ON c.org_id = p.org_id
                    WHERE b.id = needs_consent.branch AND b.is_protected AND c.is_required)
$$;

-- In this transaction, for this.
CREATE FUNCTION is_consented(branch text, what text, target text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM consent
                    WHERE branch_id = is_consented.branch AND act = what AND used_for = target
                      AND used_xid = pg_current_xact_id_if_assigned())
$$;

-- The branches whose data an operation makes another branch's: the one that it names, and those whose timelines it reads.
CREATE FUNCTION copied_by(work operation) RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT work.input -> 'recipe' ->> 'source_branch_id'
    UNION
    SELECT b.id FROM timeline t JOIN branch b ON b.timeline_id = t.id OR b.id = t.branch_id
     WHERE work.input -> 'recipe' -> 'sources' ? t.id
    UNION
    SELECT branch_id FROM snapshot WHERE work.input -> 'recipe' -> 'sources' ? timeline_id
$$;

-- Whichever machine it is, and whoever submits it. A snapshot is its branch's, so it takes none; what is made of it does.
CREATE FUNCTION operation_consent() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    source text;
BEGIN
    FOR source IN SELECT * FROM copied_by(NEW) LOOP
        IF source IS DISTINCT FROM NEW.branch_id AND needs_consent(source) AND NOT is_consented(source, 'copy', NEW.branch_id) THEN
            PERFORM refuse('cannot copy protected branch without the consent of another person', source);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER operation_consent BEFORE INSERT ON operation
    FOR EACH ROW WHEN (NEW.input ? 'recipe') EXECUTE FUNCTION operation_consent();
CREATE TRIGGER operation_keeps_consent BEFORE UPDATE ON operation
    FOR EACH ROW WHEN (NEW.input ? 'recipe' AND (OLD.input, OLD.branch_id) IS DISTINCT FROM (NEW.input, NEW.branch_id))
    EXECUTE FUNCTION operation_consent();
ALTER TABLE operation ENABLE ALWAYS TRIGGER operation_consent;
ALTER TABLE operation ENABLE ALWAYS TRIGGER operation_keeps_consent;

CREATE FUNCTION unprotection_consent() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF needs_consent(NEW.branch_id) AND NOT is_consented(NEW.branch_id, 'unprotect', NEW.branch_id) THEN
        PERFORM refuse('cannot unprotect branch without the consent of another person', NEW.branch_id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER unprotection_consent BEFORE INSERT ON unprotection
    FOR EACH ROW EXECUTE FUNCTION unprotection_consent();
ALTER TABLE unprotection ENABLE ALWAYS TRIGGER unprotection_consent;

REVOKE ALL ON FUNCTION consent_policy_holds(), consent_holds(), needs_consent(text), is_consented(text, text, text),
    copied_by(operation), operation_consent(), unprotection_consent() FROM PUBLIC;
