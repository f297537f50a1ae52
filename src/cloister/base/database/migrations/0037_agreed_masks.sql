-- A set of masking rules that two people agreed on for a protected branch: who masks by them, or by more, needs no consent each time.
-- And a consent that was not used can be taken back, by one. docs/adr/0054-agreed-masks.md has the reasons.

SET search_path = cloister, pg_catalog;

ALTER TABLE consent
    ADD COLUMN rules jsonb,                                     -- of act mask: as an operation is given them
    ADD COLUMN ended_by uuid REFERENCES account (id),
    ADD COLUMN ended_at timestamptz,
    DROP CONSTRAINT consent_act_check,
    ADD CONSTRAINT consent_act_check CHECK (act IN ('copy', 'unprotect', 'mask')),
    ADD CHECK ((act = 'mask') = (rules IS NOT NULL)),
    ADD CHECK (jsonb_typeof(rules) = 'array' AND rules <> '[]'),    -- every set of rules holds none
    ADD CHECK ((ended_by IS NULL) = (ended_at IS NULL)),
    ADD CHECK (act <> 'mask' OR used_at IS NULL);                   -- it holds, and is not used up
-- The newer takes the older one's place: of two, the laxer would hold.
CREATE UNIQUE INDEX consent_masks ON consent (branch_id) WHERE act = 'mask' AND agreed_at IS NOT NULL AND ended_at IS NULL;
GRANT INSERT (rules), UPDATE (ended_by) ON consent TO cloister_api;

-- As in 0036; and it ends, once, where it was not used.
CREATE OR REPLACE FUNCTION consent_holds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF num_nonnulls(NEW.agreed_by, NEW.agreed_at, NEW.used_for, NEW.used_at, NEW.used_xid, NEW.ended_by, NEW.ended_at) > 0 THEN
            PERFORM refuse('a consent is given after it was asked for', NEW.id::text);
        END IF;
        NEW.asked_at := now();
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR OLD.used_for IS NOT NULL OR OLD.ended_by IS NOT NULL
       OR (NEW.id, NEW.branch_id, NEW.act, NEW.rules, NEW.reason, NEW.asked_by, NEW.asked_as, NEW.asked_at) IS DISTINCT FROM
          (OLD.id, OLD.branch_id, OLD.act, OLD.rules, OLD.reason, OLD.asked_by, OLD.asked_as, OLD.asked_at) THEN
        PERFORM refuse('a consent is used once, as it was asked for', OLD.id::text);
    END IF;
    IF NEW.ended_by IS NOT NULL THEN
        IF NEW.agreed_by IS DISTINCT FROM OLD.agreed_by OR NEW.used_for IS NOT NULL THEN
            PERFORM refuse('a consent ends as it is', OLD.id::text);
        END IF;
        NEW.ended_at := now();
        RETURN NEW;
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

-- All that was agreed on is among the rules, word by word.
CREATE FUNCTION is_masked_as_agreed(branch text, rules jsonb) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM consent c
                    WHERE c.branch_id = is_masked_as_agreed.branch AND c.act = 'mask' AND c.ended_at IS NULL
                      AND c.agreed_at > now() - interval '90 days' AND is_masked_as_agreed.rules @> c.rules)
$$;

CREATE OR REPLACE FUNCTION operation_consent() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    source text;
BEGIN
    FOR source IN SELECT * FROM copied_by(NEW) LOOP
        IF source IS DISTINCT FROM NEW.branch_id AND needs_consent(source)
           AND NOT is_consented(source, 'copy', NEW.branch_id)
           AND NOT (NEW.machine = 'anonymize_branch' AND is_masked_as_agreed(source, NEW.input -> 'rules')) THEN
            PERFORM refuse('cannot copy protected branch without the consent of another person', source);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

-- A machine decides what is done with the rules, so it stays the one that was looked at.
DROP TRIGGER operation_keeps_consent ON operation;
CREATE TRIGGER operation_keeps_consent BEFORE UPDATE ON operation
    FOR EACH ROW WHEN (NEW.input ? 'recipe' AND (OLD.input, OLD.branch_id, OLD.machine) IS DISTINCT FROM (NEW.input, NEW.branch_id, NEW.machine))
    EXECUTE FUNCTION operation_consent();
ALTER TABLE operation ENABLE ALWAYS TRIGGER operation_keeps_consent;

REVOKE ALL ON FUNCTION is_masked_as_agreed(text, jsonb) FROM PUBLIC;
