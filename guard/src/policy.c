/*
 * What a tenant's session may not do, whatever rights its roles have.
 *
 * A tenant's session is every one but the platform's (`session_is_platform`). PostgreSQL itself keeps a
 * role that is no superuser from most of what is below. This file is for three cases that it leaves open, and says in
 * every case what to do instead:
 *
 *   (1) what PostgreSQL allows and the platform must not: the table below;
 *   (2) a *borrowed* superuser: code that a tenant's session runs with a superuser's rights (a SECURITY DEFINER
 *       function, a trigger, an index expression). There is no honest case of it here, so it gets no utility statement
 *       but those that change nothing, and no writing to a system catalog;
 *   (3) the script of an extension, which runs as the superuser by design. It may do all that making an extension
 *       takes (functions in C, operators, casts), and nothing of the table below.
 *
 * The hooks see a statement however it got there: plainly, prepared, from a function, a DO block or a script.
 *
 *   statement                           why it is refused although PostgreSQL might let it pass
 *   ---------                           -------------------------------------------------------
 *   COPY to/from a program or file      a member of pg_execute_server_program is a shell; membership may come with a
 *                                       cluster that was made elsewhere
 *   GRANT pg_execute_server_program, …  nothing the members of these roles may do is of use in a sandbox without files,
 *                                       programs and network, and the reserved connections are the platform's
 *   GRANT/REVOKE neon_superuser,        what a platform role is, the control plane alone decides; a session may
 *   ALTER, DROP, RENAME, COMMENT ON,    SET ROLE neon_superuser, and then PostgreSQL lets it change its password and
 *   DROP OWNED BY a platform role       settings and drop what it was granted
 *   a role named cloister_…, postgres…  the gateway and the control plane know their own by name
 *   CREATE/ALTER ROLE … SUPERUSER       never, see (3)
 *   ALTER SYSTEM                        PostgreSQL 16 has no switch for it, and can grant it for single parameters
 *   LOAD                                everybody may load from $libdir/plugins
 *   CREATE TABLESPACE, LANGUAGE;        never, see (3), but for what an extension's script makes; C functions are
 *   functions in C                      code of any kind
 *   CREATE SUBSCRIPTION                 branches would copy a place in somebody else's log (docs/adr/0025-egress.md)
 *   CREATE EXTENSION                    the list is closed; PostgreSQL takes what the control file calls trusted, also
 *                                       through CASCADE
 *   … VERSION, ALTER EXTENSION … TO     scripts of old versions were never looked at
 *   … into a schema of somebody else    PostgreSQL does not ask for CREATE on it: `SCHEMA pg_catalog` puts operators
 *                                       before the ones that the platform and other roles use
 *   ALTER EXTENSION … ADD, DROP         a member that a tenant wrote is trusted by the next update's script
 *   ALTER DATABASE/ROLE … SET           some parameters that everybody may set must hold: see `kept_parameters`
 *   reading pg_authid, pg_user_mapping  access that was approved for a while may read all data, and would keep the
 *   and the like in such access         verifiers of roles that stay: see `is_kept_from_access`
 *   ALTER ROLE of its own, DROP OWNED   every role may give itself a password, which opens it without claims, set what its
 *   BY, in a session with a token       next sessions begin with, and take itself out of row security's policies: a role
 *                                       that tokens open is one for many who must not be each other
 *   SECURITY LABEL                      labels are how the platform marks roles
 *   the databases postgres, template*   they are the platform's own
 *
 * Errors are 42501 (insufficient_privilege), and counted (refusals.c). Neither statement nor context is logged: both can
 * hold a password.
 */
#include "guard.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/varlena.h"

/* `control/roles/model.py` has the same names for the API. Only initdb can make a role whose name starts with pg_. */
static const char *const platform_roles[] = {
	"neon_superuser", "cloud_admin", "zenith_admin", "postgres", NULL
};
#define PLATFORM_PREFIX "cloister_"
#define ACCESS_PREFIX "cloister_access_"	/* `ROLE_PREFIX` in control/access/model.py */

static const char *const server_roles[] = {
	"pg_execute_server_program", "pg_read_server_files", "pg_write_server_files", "pg_create_subscription",
	"pg_use_reserved_connections", NULL
};

static const char *const platform_databases[] = {"postgres", "template0", "template1", NULL};

/* A setting of a database is in force in the platform's sessions as well, and one of these could keep them out (`role`,
 * libraries that do not exist) or change what is stored or logged about passwords. */
static const char *const kept_parameters[] = {
	"session_authorization", "session_preload_libraries", "local_preload_libraries", "dynamic_library_path",
	"event_triggers", "password_encryption", NULL
};
static const char *const kept_prefixes[] = {"log_", "guard.", NULL};

static char *allowed_extensions = "";

static ProcessUtility_hook_type next_utility = NULL;
static ExecutorCheckPerms_hook_type next_check_perms = NULL;
static object_access_hook_type next_object_access = NULL;

/* What is looked at, as refusals.c has it: the statement's name where it has no other. */
static const char *asked = "";

/* Does not return. */
#define REFUSE(hint, ...) \
	do { \
		refusal_note(asked); \
		ereport(ERROR, \
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg(__VA_ARGS__), errhint(hint), \
				 errhidestmt(true), errhidecontext(true))); \
	} while (0)

static bool
is_one_of(const char *name, const char *const *names)
{
	for (; *names != NULL; names++)
		if (strcmp(name, *names) == 0)
			return true;
	return false;
}

static bool
is_reserved_role(const char *name)
{
	return strncmp(name, PLATFORM_PREFIX, strlen(PLATFORM_PREFIX)) == 0 || is_one_of(name, platform_roles);
}

static const char *
name_of(RoleSpec *role)
{
	switch (role->roletype)
	{
		case ROLESPEC_CSTRING:
			return role->rolename;
		case ROLESPEC_CURRENT_ROLE:
		case ROLESPEC_CURRENT_USER:
			return GetUserNameFromId(GetUserId(), false);
		case ROLESPEC_SESSION_USER:
			return GetUserNameFromId(GetSessionUserId(), false);
		case ROLESPEC_PUBLIC:
			break;
	}
	return "public";
}

static void
require_tenant_role(const char *name)
{
	if (is_reserved_role(name))
		REFUSE("It belongs to the platform. Make and change roles of your own.",
			   "role \"%s\" cannot be changed", name);
}

static void
require_free_role_name(const char *name)
{
	if (is_reserved_role(name))
		REFUSE("Choose a name that does not start with \"cloister_\" and is none of the platform's.",
			   "role name \"%s\" is reserved", name);
}

static void
require_grantable(const char *name)
{
	if (is_reserved_role(name))
		REFUSE("Roles that are made through the API or the command line have it.",
			   "membership in role \"%s\" is the platform's to give", name);
	if (is_one_of(name, server_roles))
		REFUSE("A database has no server files, programs or network here. Use COPY ... FROM STDIN and TO STDOUT.",
			   "membership in role \"%s\" is not available", name);
}

static void
require_roles(List *roles, void (*require) (const char *))
{
	ListCell   *cell;

	foreach(cell, roles)
		require(name_of(lfirst_node(RoleSpec, cell)));
}

static void
require_own_database(const char *name)
{
	if (is_one_of(name, platform_databases))
		REFUSE("It belongs to the platform. Make databases of your own.", "database \"%s\" cannot be changed", name);
}

/* Whichever of its roles a session with a token acts as: itself, or one that it became by SET ROLE. What a function of another
 * owner changes with that owner's rights stays its own business. */
static void
require_not_of_token(const char *name)
{
	Oid			role;

	if (!session_has_token())
		return;
	role = get_role_oid(name, true);
	if (role == GetAuthenticatedUserId() || role == GetSessionUserId() || role == GetUserId())
		REFUSE("It is one role for many users. Change it in a session that a password opened.",
			   "role \"%s\" cannot be changed with a token", name);
}

static void
check_role_options(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "superuser") == 0 && option->arg != NULL && defGetBoolean(option))
			REFUSE("Use CREATEDB, CREATEROLE, BYPASSRLS or REPLICATION.", "no role can be a superuser");
		else if (strcmp(option->defname, "addroleto") == 0)
			require_roles((List *) option->arg, require_grantable);
		else if (strcmp(option->defname, "rolemembers") == 0 || strcmp(option->defname, "adminmembers") == 0)
		{
			ListCell   *member;

			foreach(member, (List *) option->arg)
			{
				const char *name = name_of(lfirst_node(RoleSpec, member));

				if (strcmp(name, "neon_superuser") != 0)	/* Its members may share what a tenant made. */
					require_tenant_role(name);
			}
		}
	}
}

static void
check_membership(GrantRoleStmt *stmt)
{
	ListCell   *cell;

	foreach(cell, stmt->granted_roles)
	{
		const char *name = lfirst_node(AccessPriv, cell)->priv_name;

		if (name != NULL && (stmt->is_grant || is_reserved_role(name)))
			require_grantable(name);
	}
	foreach(cell, stmt->grantee_roles)
	{
		const char *name = name_of(lfirst_node(RoleSpec, cell));

		if (strcmp(name, "neon_superuser") != 0)
			require_tenant_role(name);
	}
}

static void
check_setting(VariableSetStmt *setting, bool is_for_database)
{
	const char *name = setting->name;
	const char *const *prefix;

	if (name == NULL)			/* RESET ALL */
		return;
	for (prefix = kept_prefixes; *prefix != NULL; prefix++)
		if (pg_strncasecmp(name, *prefix, strlen(*prefix)) == 0)
			REFUSE("The platform needs it as it is.", "parameter \"%s\" cannot be set here", name);
	if (is_for_database && pg_strcasecmp(name, "role") == 0)
		REFUSE("Set it for a role: ALTER ROLE ... SET role.", "parameter \"%s\" cannot be set for a database", name);
	for (prefix = kept_parameters; *prefix != NULL; prefix++)
		if (pg_strcasecmp(name, *prefix) == 0)
			REFUSE("The platform needs it as it is.", "parameter \"%s\" cannot be set here", name);
}

static bool
is_allowed_extension(const char *name)
{
	char	   *copy = pstrdup(allowed_extensions);
	List	   *names;
	ListCell   *cell;

	if (!SplitIdentifierString(copy, ',', &names))
		return false;
	foreach(cell, names)
		if (strcmp(name, (const char *) lfirst(cell)) == 0)
			return true;
	return false;
}

static void
require_allowed_extension(const char *name)
{
	if (!is_allowed_extension(name))
		REFUSE("See the documentation for the extensions that there are.", "extension \"%s\" is not available", name);
}

static void
check_extension_options(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, "new_version") == 0)
			REFUSE("Leave the version out: the one that belongs to this server is taken.",
				   "the version of an extension cannot be chosen");
}

static bool
is_code_of_any_kind(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "language") == 0)
		{
			const char *language = defGetString(option);

			return pg_strcasecmp(language, "c") == 0 || pg_strcasecmp(language, "internal") == 0;
		}
	}
	return false;
}

/* The table. */
static void
check_statement(Node *node)
{
	switch (nodeTag(node))
	{
		case T_CopyStmt:
			if (((CopyStmt *) node)->is_program)
				asked = "COPY PROGRAM";
			if (((CopyStmt *) node)->is_program || ((CopyStmt *) node)->filename != NULL)
				REFUSE("Use COPY ... FROM STDIN and TO STDOUT, or psql's \\copy.",
					   "COPY with a program or a file of the server is not available");
			break;

		case T_CreateRoleStmt:
			require_free_role_name(((CreateRoleStmt *) node)->role);
			check_role_options(((CreateRoleStmt *) node)->options);
			break;
		case T_AlterRoleStmt:	/* also ALTER GROUP */
			check_role_options(((AlterRoleStmt *) node)->options);
			require_tenant_role(name_of(((AlterRoleStmt *) node)->role));
			require_not_of_token(name_of(((AlterRoleStmt *) node)->role));
			break;
		case T_AlterRoleSetStmt:
			if (((AlterRoleSetStmt *) node)->role != NULL)
			{
				require_tenant_role(name_of(((AlterRoleSetStmt *) node)->role));
				require_not_of_token(name_of(((AlterRoleSetStmt *) node)->role));
			}
			check_setting(((AlterRoleSetStmt *) node)->setstmt, ((AlterRoleSetStmt *) node)->role == NULL);
			break;
		case T_DropRoleStmt:
			require_roles(((DropRoleStmt *) node)->roles, require_tenant_role);
			break;
		case T_GrantRoleStmt:
			check_membership((GrantRoleStmt *) node);
			break;
		case T_DropOwnedStmt:
			require_roles(((DropOwnedStmt *) node)->roles, require_tenant_role);
			if (session_has_token())
				REFUSE("DROP what is not needed by its name, or do it in a session that a password opened.",
					   "DROP OWNED BY is not available with a token");
			break;

		case T_AlterDatabaseSetStmt:
			require_own_database(((AlterDatabaseSetStmt *) node)->dbname);
			check_setting(((AlterDatabaseSetStmt *) node)->setstmt, true);
			break;
		case T_AlterDatabaseStmt:
			require_own_database(((AlterDatabaseStmt *) node)->dbname);
			break;
		case T_DropdbStmt:
			require_own_database(((DropdbStmt *) node)->dbname);
			break;

		case T_RenameStmt:
			if (((RenameStmt *) node)->renameType == OBJECT_ROLE)
			{
				require_tenant_role(((RenameStmt *) node)->subname);
				require_free_role_name(((RenameStmt *) node)->newname);
			}
			else if (((RenameStmt *) node)->renameType == OBJECT_DATABASE)
				require_own_database(((RenameStmt *) node)->subname);
			break;
		case T_AlterOwnerStmt:
			if (((AlterOwnerStmt *) node)->objectType == OBJECT_DATABASE)
				require_own_database(strVal(((AlterOwnerStmt *) node)->object));
			break;
		case T_CommentStmt:
			if (((CommentStmt *) node)->objtype == OBJECT_ROLE)
				require_tenant_role(strVal(((CommentStmt *) node)->object));
			else if (((CommentStmt *) node)->objtype == OBJECT_DATABASE)
				require_own_database(strVal(((CommentStmt *) node)->object));
			break;

		case T_AlterSystemStmt:
			REFUSE("Change the endpoint's pg_settings, or use ALTER DATABASE ... SET or ALTER ROLE ... SET.",
				   "ALTER SYSTEM is not available");
			break;
		case T_LoadStmt:
			REFUSE("Extensions load their libraries themselves.", "LOAD is not available");
			break;
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
		case T_AlterTableSpaceOptionsStmt:
			REFUSE("All of a project's data is in its one encrypted volume.", "tablespaces are not available");
			break;
		case T_CreateSubscriptionStmt:
		case T_AlterSubscriptionStmt:
			REFUSE("Read the other server's tables through postgres_fdw, by a way out of the project.",
				   "subscriptions are not available");
			break;
		case T_SecLabelStmt:
			REFUSE("Labels are the platform's.", "security labels are not available");
			break;

		case T_CreateExtensionStmt:
			require_allowed_extension(((CreateExtensionStmt *) node)->extname);
			check_extension_options(((CreateExtensionStmt *) node)->options);
			break;
		case T_AlterExtensionStmt:
			check_extension_options(((AlterExtensionStmt *) node)->options);
			break;
		case T_AlterExtensionContentsStmt:
			if (!creating_extension)
				REFUSE("Leave what an extension consists of to its script.",
					   "members of extension \"%s\" cannot be changed",
					   ((AlterExtensionContentsStmt *) node)->extname);
			break;
		case T_CreatePLangStmt:
			if (!creating_extension)
				REFUSE("Use LANGUAGE plpgsql or sql.", "no language can be created");
			break;
		case T_CreateFunctionStmt:
			if (!creating_extension && is_code_of_any_kind(((CreateFunctionStmt *) node)->options))
				REFUSE("Use LANGUAGE plpgsql or sql.", "functions in C or of the server's own cannot be created");
			break;

		default:
			break;
	}
}

/* EXPLAIN ANALYZE runs what it explains, and makes the table of a CREATE TABLE AS itself: no hook sees that statement. */
static bool
explains_what_makes_a_table(ExplainStmt *statement)
{
	Node	   *explained = IsA(statement->query, Query) ? ((Query *) statement->query)->utilityStmt : NULL;

	return explained != NULL && IsA(explained, CreateTableAsStmt);
}

bool
statement_is_harmless(Node *node)
{
	switch (nodeTag(node))
	{
		case T_TransactionStmt:
		case T_VariableShowStmt:
		case T_DeclareCursorStmt:
		case T_FetchStmt:
		case T_ClosePortalStmt:
		case T_PrepareStmt:
		case T_ExecuteStmt:
		case T_DeallocateStmt:
		case T_ConstraintsSetStmt:
			return true;
		case T_ExplainStmt:
			return !explains_what_makes_a_table((ExplainStmt *) node);
		default:
			return false;
	}
}

static bool
is_superuser_borrowed(void)
{
	return !creating_extension && superuser();
}

static void
policy_utility(PlannedStmt *pstmt, const char *query, bool is_tree_read_only, ProcessUtilityContext context,
					 ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	if (!session_is_platform())
	{
		asked = "borrowed superuser";
		if (is_superuser_borrowed() && !statement_is_harmless(pstmt->utilityStmt))
			REFUSE("Run it as a role of your own.", "this statement cannot be run with the rights of a superuser");
		asked = CreateCommandName(pstmt->utilityStmt);
		check_statement(pstmt->utilityStmt);
	}
	if (next_utility)
		next_utility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
}

/* Did somebody log in whose access to data was approved for a while (control/access)? Who logged in does not change. */
static bool
session_is_approved_access(void)
{
	static int	known = -1;

	if (known < 0)
	{
		const char *login = GetUserNameFromId(GetAuthenticatedUserId(), true);

		known = login != NULL && strncmp(login, ACCESS_PREFIX, strlen(ACCESS_PREFIX)) == 0;
	}
	return known == 1;
}

/* What a reader of all data could read, and use when the access is long over: verifiers of standing roles, passwords for
 * other servers. And values of rows that row-level security hides. */
static bool
is_kept_from_access(Oid relation)
{
	static const char *const kept[] = {
		"pg_authid", "pg_shadow", "pg_user_mapping", "pg_statistic", "pg_statistic_ext_data", NULL
	};
	const char *name;

	if (get_rel_relkind(relation) == RELKIND_TOASTVALUE)
		return true;
	if (relation >= FirstNormalObjectId)
		return false;			/* not of those that initdb makes */
	name = get_rel_name(relation);
	return name != NULL && is_one_of(name, kept);
}

/* (1) Rights of all kinds are rows of system catalogs. Extensions' scripts may write to them, as some do; nobody else.
 * (2) Approved access sees what has secrets through the system's own views only (pg_roles, pg_stats), which leave these
 *     out: not through a view of somebody's, nor in a function of the owner's. */
static bool
policy_check_perms(List *range_table, List *permissions, bool is_error_wanted)
{
	ListCell   *cell;

	foreach(cell, permissions)
	{
		RTEPermissionInfo *wanted = lfirst_node(RTEPermissionInfo, cell);

		if ((wanted->requiredPerms & (ACL_INSERT | ACL_UPDATE | ACL_DELETE)) != 0 &&
			IsCatalogRelationOid(wanted->relid) && !session_is_platform() && is_superuser_borrowed())
		{
			asked = "catalog write";
			if (is_error_wanted)
				REFUSE("Use the statement that is made for it.", "system catalogs cannot be written to");
			return false;
		}
		if (session_is_approved_access() && wanted->checkAsUser != BOOTSTRAP_SUPERUSERID &&
			is_kept_from_access(wanted->relid))
		{
			asked = "secrets of a catalog";
			if (is_error_wanted)
				REFUSE("pg_roles and pg_stats have what else is there.",
					   "\"%s\" is not for approved access", get_rel_name(wanted->relid));
			return false;
		}
	}
	return next_check_perms ? next_check_perms(range_table, permissions, is_error_wanted) : true;
}

/* CASCADE makes extensions that no statement names, and without SCHEMA search_path says where: so the row is looked at
 * that was just written, before the script is run. */
static void
check_new_extension(Oid extension)
{
	Relation	catalog = table_open(ExtensionRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	row;
	NameData	name;
	Oid			schema;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(catalog, ExtensionOidIndexId, true, SnapshotSelf, 1, &key);
	row = systable_getnext(scan);
	if (!HeapTupleIsValid(row))
		elog(ERROR, "extension %u is not there", extension);
	name = ((Form_pg_extension) GETSTRUCT(row))->extname;
	schema = ((Form_pg_extension) GETSTRUCT(row))->extnamespace;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);

	require_allowed_extension(NameStr(name));
	if (object_aclcheck(NamespaceRelationId, schema, GetUserId(), ACL_CREATE) != ACLCHECK_OK)
		REFUSE("Name a schema in which you may create objects: CREATE EXTENSION ... SCHEMA ....",
			   "extension \"%s\" cannot be created in this schema", NameStr(name));
}

static void
policy_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *argument)
{
	if (access == OAT_POST_CREATE && class_id == ExtensionRelationId && !session_is_platform())
	{
		asked = "CREATE EXTENSION";
		check_new_extension(object_id);
	}
	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, argument);
}

void
policy_init(void)
{
	DefineCustomStringVariable("guard.extensions",
							   "Names of the extensions that tenants may create, separated by commas.",
							   NULL, &allowed_extensions, "", PGC_POSTMASTER, 0, NULL, NULL, NULL);

	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = policy_utility;
	next_check_perms = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = policy_check_perms;
	next_object_access = object_access_hook;
	object_access_hook = policy_object_access;
}
