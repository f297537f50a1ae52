-- What is held because of two findings is held until both are released. In 0010 the second one's hold was none, since there was one
-- already; and whoever released the first let in what the second was said to keep out.

SET search_path = cloister, pg_catalog;

ALTER TABLE hold DROP CONSTRAINT hold_pkey;
ALTER TABLE hold ADD PRIMARY KEY (project_id, endpoint_id, role, finding_id);
