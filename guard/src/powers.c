/*
 * Who was made more powerful in SQL, kept where the platform can read it: so many times, this power, by this role, to that one.
 *
 * None of it is refused: these statements are a tenant's right, and roles that were made through the API need no other. But a
 * role that nobody knows with BYPASSRLS, or a table that everybody may read, is what an intruder leaves behind. The platform
 * reads `guard.powers` (control/computes/powers.py).
 *
 *   statement                           noted where
 *   ---------                           -----------
 *   CREATE ROLE, ALTER ROLE             it gives CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS
 *   GRANT role, and CREATE ROLE and     the role has one of these, or is, or is a member of, one of PostgreSQL's own (pg_…); or
 *   ALTER GROUP with members            its member may pass it on
 *   GRANT … TO PUBLIC, also by          it is about a table, a schema, a database or a foreign server, and not what everybody has
 *   default for what is made later      anyway: to connect, temporary tables, USAGE of the schema public
 *
 * Noted is what is new: who has a power already, in whatever way, is not given it again. What an application's migrations
 * do (roles without attributes, rights to tables of such roles, memberships among them) is nothing of all this.
 *
 * A statement is looked at before it runs and noted when it has succeeded, whatever becomes of its transaction: who tries
 * something in a transaction that is taken back has tried it.
 */
#include "guard.h"
#include "tally.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"

/* In the order in which they are told. */
#define MAKES_ROLES (1 << 0)
#define MAKES_DATABASES (1 << 1)
#define REPLICATES (1 << 2)
#define PASSES_ROW_SECURITY (1 << 3)
#define PASSES_ON (1 << 4)
#define READS_ALL (1 << 5)
#define OWN_OF_POSTGRES (1 << 9)	/* from READS_ALL up to this one: `predefined` */

static const char *const words[] = {"CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS", "ADMIN OPTION"};

/* What these can do is told by their name; of others it is only told that they are PostgreSQL's own. */
static const char *const predefined[] = {"pg_read_all_data", "pg_write_all_data", "pg_monitor", "pg_signal_backend"};

static const struct
{
	const char *option;
	uint32		power;
}			attributes[] = {
	{"createrole", MAKES_ROLES},
	{"createdb", MAKES_DATABASES},
	{"isreplication", REPLICATES},
	{"bypassrls", PASSES_ROW_SECURITY},
};

typedef struct Given
{
	char		what[TALLY_BYTES_MAX];
	NameData	whom;
} Given;

static Tally *powers = NULL;
static char *forgotten = NULL;

static ProcessUtility_hook_type next_utility = NULL;

static uint32
powers_of_row(Form_pg_authid row)
{
	uint32		found = 0;
	size_t		i;

	if (row->rolcreaterole)
		found |= MAKES_ROLES;
	if (row->rolcreatedb)
		found |= MAKES_DATABASES;
	if (row->rolreplication)
		found |= REPLICATES;
	if (row->rolbypassrls)
		found |= PASSES_ROW_SECURITY;
	if (strncmp(NameStr(row->rolname), "pg_", 3) != 0)
		return found;
	for (i = 0; i < lengthof(predefined); i++)
		if (strcmp(NameStr(row->rolname), predefined[i]) == 0)
			return found | READS_ALL << i;
	return found | OWN_OF_POSTGRES;
}

/* Of the role itself and of all that it is a member of: what it does not inherit, SET ROLE gives it. */
static uint32
powers_of(Oid role)
{
	Relation	catalog;
	SysScanDesc scan;
	HeapTuple	tuple;
	uint32		found = 0;

	if (!OidIsValid(role))
		return 0;
	catalog = table_open(AuthIdRelationId, AccessShareLock);
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_authid row = (Form_pg_authid) GETSTRUCT(tuple);
		uint32		more = powers_of_row(row) & ~found;

		if (more != 0 && is_member_of_role_nosuper(role, row->oid))
			found |= more;
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

static void
append_power(char *text, const char *word)
{
	if (text[0] != '\0')
		strlcat(text, ", ", TALLY_BYTES_MAX);
	strlcat(text, word, TALLY_BYTES_MAX);
}

static List *
give(List *given, uint32 gained, const char *whom)
{
	Given	   *one;
	size_t		i;

	if (gained == 0)
		return given;
	one = palloc0(sizeof(Given));
	for (i = 0; i < lengthof(words); i++)
		if (gained & 1 << i)
			append_power(one->what, words[i]);
	for (i = 0; i < lengthof(predefined); i++)
		if (gained & READS_ALL << i)
			append_power(one->what, predefined[i]);
	/* pg_monitor is a member of others, which its name tells as well. */
	if (gained & OWN_OF_POSTGRES && (gained & ~(uint32) (PASSES_ON | OWN_OF_POSTGRES)) == 0)
		append_power(one->what, "a role of PostgreSQL");
	namestrcpy(&one->whom, whom);
	return lappend(given, one);
}

static List *
give_all(List *given, const char *what)
{
	Given	   *one = palloc0(sizeof(Given));

	strlcpy(one->what, what, TALLY_BYTES_MAX);
	return lappend(given, one);
}

/* NULL of who is not there, or of PUBLIC, which PostgreSQL will say. */
static const char *
name_of(RoleSpec *role, Oid *oid)
{
	if (role->roletype == ROLESPEC_PUBLIC)
		return NULL;
	*oid = get_rolespec_oid(role, true);
	return OidIsValid(*oid) ? GetUserNameFromId(*oid, true) : NULL;
}

/* To each of these a membership in what has these powers. Who is a member already gains at most the passing on. */
static List *
give_members(List *given, List *members, uint32 what, Oid role, bool is_admin)
{
	ListCell   *cell;

	foreach(cell, members)
	{
		Oid			member = InvalidOid;
		const char *name = name_of(lfirst_node(RoleSpec, cell), &member);
		uint32		gained;

		if (name == NULL)
			continue;
		gained = what & ~powers_of(member);
		if (is_admin && !(OidIsValid(role) && is_admin_of_role(member, role)))
			gained |= PASSES_ON;
		given = give(given, gained, name);
	}
	return given;
}

static uint32
attributes_of(List *options)
{
	uint32		found = 0;
	ListCell   *cell;
	size_t		i;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		for (i = 0; i < lengthof(attributes); i++)
			if (strcmp(option->defname, attributes[i].option) == 0 && option->arg != NULL && boolVal(option->arg))
				found |= attributes[i].power;
	}
	return found;
}

static List *
given_by_create(CreateRoleStmt *statement)
{
	uint32		own = attributes_of(statement->options);
	uint32		all = own;
	List	   *given = NIL;
	ListCell   *cell;
	ListCell   *of;

	foreach(cell, statement->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "addroleto") != 0)
			continue;
		foreach(of, (List *) option->arg)
		{
			Oid			role = InvalidOid;

			if (name_of(lfirst_node(RoleSpec, of), &role) != NULL)
				all |= powers_of(role);
		}
	}
	given = give(given, all, statement->role);
	foreach(cell, statement->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);
		bool		is_admin = strcmp(option->defname, "adminmembers") == 0;

		if (is_admin || strcmp(option->defname, "rolemembers") == 0)
			given = give_members(given, (List *) option->arg, all, InvalidOid, is_admin);
	}
	return given;
}

static List *
given_by_alter(AlterRoleStmt *statement)
{
	Oid			role = InvalidOid;
	const char *name = name_of(statement->role, &role);
	List	   *given;
	ListCell   *cell;

	if (name == NULL)
		return NIL;
	given = give(NIL, attributes_of(statement->options) & ~powers_of(role), name);
	foreach(cell, statement->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		/* ALTER GROUP … ADD USER; its `action` is -1 for DROP USER */
		if (strcmp(option->defname, "rolemembers") == 0 && statement->action > 0)
			given = give_members(given, (List *) option->arg, powers_of(role), role, false);
	}
	return given;
}

static bool
says_admin(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "admin") == 0)
			return defGetBoolean(option);
	}
	return false;
}

static List *
given_by_membership(GrantRoleStmt *statement)
{
	List	   *given = NIL;
	ListCell   *cell;

	if (!statement->is_grant)
		return NIL;
	foreach(cell, statement->granted_roles)
	{
		const char *name = lfirst_node(AccessPriv, cell)->priv_name;
		Oid			role = name != NULL ? get_role_oid(name, true) : InvalidOid;

		if (OidIsValid(role))
			given = give_members(given, statement->grantee_roles, powers_of(role), role, says_admin(statement->opt));
	}
	return given;
}

static bool
is_to_everybody(List *grantees)
{
	ListCell   *cell;

	foreach(cell, grantees)
		if (lfirst_node(RoleSpec, cell)->roletype == ROLESPEC_PUBLIC)
			return true;
	return false;
}

/* Is one of the rights that are given none of these? All of them are, where no right is named. */
static bool
gives_more_than(List *privileges, const char *usual, const char *also)
{
	ListCell   *cell;

	if (privileges == NIL)
		return true;
	foreach(cell, privileges)
	{
		const char *name = lfirst_node(AccessPriv, cell)->priv_name;

		if (name == NULL || (strcmp(name, usual) != 0 && strcmp(name, also) != 0 && strcmp(name, "temp") != 0))
			return true;
	}
	return false;
}

static bool
is_only_public_schema(List *schemas)
{
	return list_length(schemas) == 1 && strcmp(strVal(linitial(schemas)), "public") == 0;
}

static List *
given_by_grant(GrantStmt *statement)
{
	if (!statement->is_grant || !is_to_everybody(statement->grantees))
		return NIL;
	switch (statement->objtype)
	{
		case OBJECT_TABLE:
			return give_all(NIL, statement->targtype == ACL_TARGET_DEFAULTS ? "tables made later to PUBLIC" :
							"a table to PUBLIC");
		case OBJECT_SCHEMA:
			if (is_only_public_schema(statement->objects) && !gives_more_than(statement->privileges, "usage", "usage"))
				return NIL;
			return give_all(NIL, statement->targtype == ACL_TARGET_DEFAULTS ? "schemas made later to PUBLIC" :
							"a schema to PUBLIC");
		case OBJECT_DATABASE:
			if (!gives_more_than(statement->privileges, "connect", "temporary"))
				return NIL;
			return give_all(NIL, "a database to PUBLIC");
		case OBJECT_FOREIGN_SERVER:
			return give_all(NIL, "a foreign server to PUBLIC");
		default:
			return NIL;
	}
}

static List *
given_by(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CreateRoleStmt:
			return given_by_create((CreateRoleStmt *) statement);
		case T_AlterRoleStmt:
			return given_by_alter((AlterRoleStmt *) statement);
		case T_GrantRoleStmt:
			return given_by_membership((GrantRoleStmt *) statement);
		case T_GrantStmt:
			return given_by_grant((GrantStmt *) statement);
		case T_AlterDefaultPrivilegesStmt:
			return given_by_grant(((AlterDefaultPrivilegesStmt *) statement)->action);
		default:
			return NIL;
	}
}

static void
powers_utility(PlannedStmt *pstmt, const char *query, bool is_tree_read_only, ProcessUtilityContext context,
			   ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	List	   *given = session_is_platform() ? NIL : given_by(pstmt->utilityStmt);
	ListCell   *cell;

	if (next_utility)
		next_utility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
	foreach(cell, given)
	{
		Given	   *one = lfirst(cell);

		tally_note(powers, one->what, NameStr(one->whom));
	}
	list_free_deep(given);
}

static const char *
show_powers(void)
{
	return tally_show(powers);
}

static void
assign_powers(const char *value, void *extra)
{
	tally_assign(powers, value);
}

void
powers_init(void)
{
	DefineCustomStringVariable("guard.powers",
							   "What tenants' sessions made roles more powerful with.",
							   NULL, &forgotten, "", PGC_SUSET, GUC_DISALLOW_IN_FILE | GUC_NOT_IN_SAMPLE,
							   tally_check, assign_powers, show_powers);
	tally_keep("guard powers", &powers);
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = powers_utility;
}
