-- Protected branches, held here: whatever a statement does, and whichever handler forgot to ask.
--
-- A branch is shielded while it is protected and no longer `init`. While it is still being made there is nothing to shield,
-- and a creation that fails must be able to take it back; a shielded one never becomes `init` again. Of a shielded branch
--
--   the row          keeps its data (timeline_id), its project, its place, and cannot be deleted, archived or expire
--   its timelines    cannot be deleted, ended or given away; what it was before, not while it can be asked for
--   its endpoints    cannot be deleted, disabled or moved to another branch
--   its project      cannot be deleted or transferred, nor can its organization be deleted
--   its volume       stays taken by it
--   its keys         stay as they are: erasing them is deleting everything
--   operations       that would do any of this are not accepted, and not given to a worker
--
-- The one way out is `unprotect`, which writes the audit event in the same act.
--
-- Refusals have SQLSTATEs of their own, whose message is for the client (base/database/refusals.py): PR422 against a rule,
-- PR400 a request that cannot be (the hint is its code), PR423 busy. Every trigger is ENABLE ALWAYS, and every function
-- pins its search path as audit_append does.
--
-- Races. A trigger that looks for shielded branches locks those that it looks at against changes (FOR SHARE), and
-- protecting locks its project and looks for what is under way: of a deletion and a protection at the same moment the
-- second sees the first.

SET search_path = cloister, pg_catalog;

-- Every time that a protection was taken away. No process may write here: rows come from `unprotect` alone, and a branch
-- row can only lose its protection in the transaction that has one.
CREATE TABLE unprotection (
    branch_id   text NOT NULL,
    xid         xid8 NOT NULL,
    audit_seq   bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (branch_id, xid)
);

CREATE FUNCTION refuse(words text, about text) RETURNS void
    LANGUAGE plpgsql SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'PR422', MESSAGE = words, DETAIL = about;
END $$;

-- The shielded branches of a project, as text, or NULL. Locks all its branches: one may just be about to be protected. The
-- condition stands in a FILTER, for one in WHERE would be moved below the lock, and rows passed by unlocked.
CREATE FUNCTION shielded_in(project text) RETURNS text
    LANGUAGE sql SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT string_agg(id, ', ') FILTER (WHERE is_protected AND state <> 'init')
      FROM (SELECT id, is_protected, state FROM branch WHERE project_id = project FOR SHARE) AS held
$$;

CREATE FUNCTION is_shielded(branch_id text) RETURNS boolean
    LANGUAGE sql SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT coalesce(bool_or(is_protected AND state <> 'init'), false)
      FROM (SELECT is_protected, state FROM branch WHERE id = branch_id FOR SHARE) AS held
$$;

-- A timeline that a branch lives on, or that it lived on and can still be taken back to.
CREATE FUNCTION is_kept(which timeline) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT which.ended_at IS NULL OR EXISTS (SELECT FROM branch WHERE timeline_id = which.id)
        OR which.ended_at >= now() - (SELECT make_interval(secs => history_retention_seconds)
                                        FROM project WHERE id = which.project_id)
$$;

-- What an operation of this machine may destroy, by itself or when it is undone: everything of its project, its branch, a
-- timeline that its input names, or (NULL) nothing. A test compares this with the machines that there are.
CREATE FUNCTION destroys(machine text) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE
        WHEN machine IN ('create_project', 'delete_project') THEN 'project'
        WHEN machine IN ('create_branch', 'restore_branch', 'delete_branch', 'purge_branch', 'finalize_restore',
                         'delete_endpoint') THEN 'branch'
        WHEN machine IN ('take_snapshot', 'delete_timeline') THEN 'timeline'
    END;

-- The branches that lose something if this operation runs or is undone.
CREATE FUNCTION aimed_at(work operation) RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT id FROM branch
     WHERE CASE destroys(work.machine)
               WHEN 'project' THEN project_id = work.project_id
               WHEN 'branch' THEN id IN (work.branch_id, work.input ->> 'replaced_id',
                                         (SELECT branch_id FROM endpoint WHERE id = work.endpoint_id))
               ELSE false
           END
    UNION
    SELECT branch.id
      FROM timeline JOIN branch ON branch.timeline_id = timeline.id OR branch.id = timeline.branch_id
     WHERE destroys(work.machine) IS NOT NULL AND is_kept(timeline)
       AND timeline.id IN (work.input ->> 'timeline_id', work.input -> 'recipe' ->> 'target_id')
$$;

-- ── the branch itself ──

CREATE FUNCTION branch_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'DELETE' AND NEW.is_protected AND NEW.expires_at IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PR400', MESSAGE = 'Protected branch cannot have an expiration date',
            DETAIL = NEW.id, HINT = 'PROTECTED_BRANCH_EXPIRATION_NOT_ALLOWED';
    END IF;
    IF TG_OP = 'INSERT' THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.is_protected AND NOT OLD.is_protected THEN
            -- Protecting what is on its way out would be a promise already broken.
            PERFORM FROM project WHERE id = NEW.project_id AND deleted_at IS NULL FOR SHARE;
            IF NOT FOUND OR NEW.deleted_at IS NOT NULL OR NEW.purged_at IS NOT NULL
               OR EXISTS (SELECT FROM timeline WHERE id = NEW.timeline_id AND state IN ('deleting', 'deleted')) THEN
                PERFORM refuse('cannot protect deleted branch', NEW.id);
            END IF;
            IF EXISTS (SELECT FROM operation AS work
                        WHERE status IN ('scheduling', 'running', 'cancelling') AND destroys(machine) IS NOT NULL
                          AND NEW.id IN (SELECT aimed_at(work))) THEN
                RAISE EXCEPTION USING ERRCODE = 'PR423', DETAIL = NEW.id, MESSAGE =
                    'project already has running conflicting operations, scheduling of new ones is prohibited';
            END IF;
        ELSIF OLD.is_protected AND NOT NEW.is_protected THEN
            IF NOT EXISTS (SELECT FROM unprotection
                            WHERE branch_id = OLD.id AND xid = pg_current_xact_id()) THEN
                PERFORM refuse('cannot unprotect branch without a recorded reason', OLD.id);
            END IF;
            RETURN NEW;
        END IF;
    END IF;
    IF NOT (OLD.is_protected AND OLD.state <> 'init') THEN
        RETURN coalesce(NEW, OLD);
    END IF;

    IF TG_OP = 'DELETE' THEN
        PERFORM refuse('cannot delete protected branch', OLD.id);
    ELSIF NEW.deleted_at IS NOT NULL OR NEW.purged_at IS NOT NULL THEN
        PERFORM refuse('cannot delete protected branch', OLD.id);
    ELSIF NEW.state = 'archived' AND OLD.state <> 'archived' THEN
        PERFORM refuse('cannot archive protected branch', OLD.id);
    ELSIF NEW.timeline_id <> OLD.timeline_id OR NEW.state = 'init' THEN
        PERFORM refuse('cannot reset protected branch', OLD.id);
    ELSIF (NEW.id, NEW.project_id) <> (OLD.id, OLD.project_id) THEN
        PERFORM refuse('cannot move protected branch', OLD.id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER branch_protection BEFORE INSERT OR UPDATE OR DELETE ON branch
    FOR EACH ROW EXECUTE FUNCTION branch_protection();

-- Takes a protection away. `event` is the body of the audit event (trust/audit/events.py): it must say who, what and why,
-- and is appended here, so that no protection ends unseen. Whether the caller may is the caller's to have decided.
CREATE FUNCTION unprotect(branch_id text, event text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    told  jsonb := event::jsonb;
    about branch%ROWTYPE;
BEGIN
    SELECT * INTO about FROM branch WHERE id = unprotect.branch_id FOR UPDATE;
    IF told ->> 'action' IS DISTINCT FROM 'branch.unprotect' OR told ->> 'branch_id' IS DISTINCT FROM about.id
       OR told ->> 'project_id' IS DISTINCT FROM about.project_id OR coalesce(told ->> 'outcome', 'ok') <> 'ok'
       OR coalesce(told ->> 'actor', '') = '' OR coalesce(trim(told ->> 'reason'), '') = '' THEN
        PERFORM refuse('cannot unprotect branch without a recorded reason', unprotect.branch_id);
    END IF;
    IF about.is_protected THEN
        INSERT INTO unprotection (branch_id, xid, audit_seq)
            VALUES (about.id, pg_current_xact_id(), audit_append(event))
            ON CONFLICT DO NOTHING;
        UPDATE branch SET is_protected = false, updated_at = now() WHERE id = about.id;
    END IF;
END $$;

-- ── its data ──

CREATE INDEX branch_of_timeline ON branch (timeline_id);

CREATE FUNCTION timeline_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    is_current boolean;
    is_past    boolean := NOT is_kept(OLD);
BEGIN
    is_current := EXISTS (SELECT FROM branch WHERE timeline_id = OLD.id AND is_shielded(id));
    IF NOT is_current AND (OLD.branch_id IS NULL OR NOT is_shielded(OLD.branch_id)) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    -- What the branch was before can be given up when nobody can ask for it any more.
    IF TG_OP = 'DELETE' THEN
        IF NOT is_past THEN
            PERFORM refuse('cannot delete protected branch', OLD.id);
        END IF;
        RETURN OLD;
    END IF;
    IF NEW.state <> OLD.state AND NEW.state IN ('deleting', 'deleted') AND NOT is_past THEN
        PERFORM refuse('cannot delete protected branch', OLD.id);
    ELSIF NEW.ended_at IS DISTINCT FROM OLD.ended_at OR (NEW.state <> OLD.state AND NEW.state = 'making') THEN
        PERFORM refuse('cannot reset protected branch', OLD.id);
    ELSIF (NEW.id, NEW.project_id) <> (OLD.id, OLD.project_id) OR NEW.branch_id IS DISTINCT FROM OLD.branch_id THEN
        PERFORM refuse('cannot move protected branch', OLD.id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER timeline_protection BEFORE DELETE OR UPDATE OF id, project_id, branch_id, state, ended_at ON timeline
    FOR EACH ROW EXECUTE FUNCTION timeline_protection();

-- ── its endpoints ──

CREATE FUNCTION endpoint_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    words text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        words := 'cannot delete endpoint of protected branch';
    ELSIF NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL THEN
        words := 'cannot delete endpoint of protected branch';
    ELSIF NEW.is_disabled AND NOT OLD.is_disabled THEN
        words := 'cannot disable endpoint of protected branch';
    ELSIF (NEW.id, NEW.project_id, NEW.branch_id, NEW.type) <> (OLD.id, OLD.project_id, OLD.branch_id, OLD.type) THEN
        words := 'cannot move endpoint from or to protected branch';
        IF is_shielded(NEW.branch_id) THEN
            PERFORM refuse(words, OLD.id);
        END IF;
    ELSE
        RETURN NEW;
    END IF;
    IF OLD.deleted_at IS NULL AND is_shielded(OLD.branch_id) THEN
        PERFORM refuse(words, OLD.id);
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER endpoint_protection
    BEFORE DELETE OR UPDATE OF id, project_id, branch_id, type, is_disabled, deleted_at ON endpoint
    FOR EACH ROW EXECUTE FUNCTION endpoint_protection();

-- ── what it lies in ──

CREATE FUNCTION project_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    words text;
    found text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        words := 'cannot delete project with protected branches';
    ELSIF NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL THEN
        words := 'cannot delete project with protected branches';
    ELSIF (NEW.id, NEW.org_id) <> (OLD.id, OLD.org_id) THEN
        words := 'cannot transfer project with protected branches';
    ELSE
        RETURN NEW;
    END IF;
    found := shielded_in(OLD.id);
    IF found IS NOT NULL THEN
        PERFORM refuse(words, found);
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER project_protection BEFORE DELETE OR UPDATE OF id, org_id, deleted_at ON project
    FOR EACH ROW EXECUTE FUNCTION project_protection();

CREATE FUNCTION organization_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    found text;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id = OLD.id THEN
        RETURN NEW;
    END IF;
    SELECT string_agg(shielded_in(id), ', ') INTO found FROM project WHERE org_id = OLD.id;
    IF found IS NOT NULL THEN
        PERFORM refuse('cannot delete organization with protected branches', found);
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER organization_protection BEFORE DELETE OR UPDATE OF id ON organization
    FOR EACH ROW EXECUTE FUNCTION organization_protection();

CREATE FUNCTION volume_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    found text;
BEGIN
    -- Ready would hand it to the next project, formatting would make it anew; another uid could not read it.
    IF TG_OP = 'UPDATE' AND (NEW.project_id, NEW.uid) = (OLD.project_id, OLD.uid)
       AND NEW.state IN (OLD.state, 'taken') THEN
        RETURN NEW;
    END IF;
    found := shielded_in(OLD.project_id);
    IF found IS NOT NULL THEN
        PERFORM refuse('cannot delete project with protected branches', found);
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER volume_protection BEFORE DELETE OR UPDATE OF project_id, uid, state ON volume
    FOR EACH ROW EXECUTE FUNCTION volume_protection();

-- ── its keys: against the key broker's own role ──

CREATE FUNCTION wrapped_key_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    found text := shielded_in(OLD.project_id);
BEGIN
    -- Any change: a wrapped key that was written over is as lost as one that was deleted.
    IF found IS NOT NULL THEN
        PERFORM refuse('cannot destroy keys of project with protected branches', found);
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER wrapped_key_protection BEFORE DELETE OR UPDATE ON wrapped_key
    FOR EACH ROW EXECUTE FUNCTION wrapped_key_protection();

-- ── operations that would do it ──

CREATE FUNCTION operation_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
DECLARE
    is_new boolean := TG_OP = 'INSERT';
    found  text;
BEGIN
    IF NEW.status NOT IN ('scheduling', 'running', 'cancelling') THEN
        RETURN NEW;  -- it ends, and does nothing any more
    END IF;
    IF NOT is_new THEN
        is_new := (NEW.machine, NEW.project_id, NEW.input) <> (OLD.machine, OLD.project_id, OLD.input)
            OR (NEW.branch_id, NEW.endpoint_id) IS DISTINCT FROM (OLD.branch_id, OLD.endpoint_id);
    END IF;
    IF is_new THEN
        SELECT string_agg(id, ', ') INTO found FROM aimed_at(NEW) AS id WHERE is_shielded(id);
        IF found IS NOT NULL THEN
            PERFORM refuse(CASE WHEN destroys(NEW.machine) = 'project'
                                    THEN 'cannot delete project with protected branches'
                                WHEN NEW.machine IN ('restore_branch', 'finalize_restore')
                                    THEN 'cannot reset protected branch'
                                WHEN NEW.machine = 'delete_endpoint'
                                    THEN 'cannot delete endpoint of protected branch'
                                ELSE 'cannot delete protected branch' END, found);
        END IF;
    -- Given to no worker, and taken from the one that has it when it renews its lease. No locks: this is the engine's
    -- way, and protecting looks for operations itself. Not an error: one such row must not hold up all others.
    ELSIF EXISTS (SELECT FROM branch JOIN aimed_at(NEW) AS aim ON aim = id WHERE is_protected AND state <> 'init') THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER operation_protection BEFORE INSERT OR UPDATE ON operation
    FOR EACH ROW WHEN (destroys(NEW.machine) IS NOT NULL) EXECUTE FUNCTION operation_protection();

-- ── all rows at once ──

-- No process of ours has the right to truncate; with a database of the operator's own, they have its owner's.
CREATE FUNCTION truncate_protection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister, pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM branch WHERE is_protected AND state <> 'init') THEN
        PERFORM refuse('cannot delete protected branch', TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE
    guarded name;
BEGIN
    FOREACH guarded IN ARRAY '{branch, timeline, endpoint, project, organization, volume, wrapped_key}'::name[] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION truncate_protection()',
                       guarded || '_truncate_protection', guarded);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', guarded, guarded || '_truncate_protection');
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', guarded, guarded || '_protection');
    END LOOP;
    ALTER TABLE operation ENABLE ALWAYS TRIGGER operation_protection;
END $$;

REVOKE ALL ON FUNCTION refuse(text, text), shielded_in(text), is_shielded(text), is_kept(timeline),
    aimed_at(operation), unprotect(text, text),
    branch_protection(), timeline_protection(), endpoint_protection(), project_protection(), organization_protection(),
    volume_protection(), wrapped_key_protection(), operation_protection(), truncate_protection() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION unprotect(text, text) TO cloister_api;
