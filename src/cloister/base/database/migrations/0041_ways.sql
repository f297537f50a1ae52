-- As in 0002; and what came since is looked for as well: the timeline that a branch is made by way of (`recipe.way_id`), which is
-- deleted when the branch is there and when it is undone, and the branch that is to be what a restored one was (`preserved_id`),
-- which gets the other's roles, passwords and history.

SET search_path = cloister, pg_catalog;

CREATE OR REPLACE FUNCTION aimed_at(work operation) RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = cloister, pg_catalog, pg_temp AS $$
    SELECT id FROM branch
     WHERE CASE destroys(work.machine)
               WHEN 'project' THEN project_id = work.project_id
               WHEN 'branch' THEN id IN (work.branch_id, work.input ->> 'replaced_id', work.input ->> 'preserved_id',
                                         (SELECT branch_id FROM endpoint WHERE id = work.endpoint_id))
               ELSE false
           END
    UNION
    SELECT branch.id
      FROM timeline JOIN branch ON branch.timeline_id = timeline.id OR branch.id = timeline.branch_id
     WHERE destroys(work.machine) IS NOT NULL AND is_kept(timeline)
       AND timeline.id IN (work.input ->> 'timeline_id', work.input -> 'recipe' ->> 'target_id',
                           work.input -> 'recipe' ->> 'way_id')
$$;
