/*
 * Passwords: only strong ones, only in clear, only as SCRAM; whatever statement they come in.
 *
 * PostgreSQL calls `check_password` for every password that CREATE or ALTER ROLE is about to store, after it has looked at
 * permissions. Nothing of a password, nor of the statement it came in, gets into a message, its context or the log:
 * see quiet.c for the statements that fail before they come here.
 *
 * Around the statement, `password_utility` has the ledger vouch for what was stored (ledger.c).
 */
#include "guard.h"

#include <math.h>
#include <string.h>

#include "commands/dbcommands.h"
#include "commands/user.h"
#include "common/saslprep.h"
#include "common/scram-common.h"
#include "libpq/scram.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "estimate.h"

/* As many as PostgreSQL's default is the least, for a copy of the catalog must not be cheap to try passwords on. The most
 * is what the gateway computes for a client that sent its password in clear (protocol/scram/verifier.py). */
#define ITERATIONS_MIN 4096
#define ITERATIONS_MAX 100000

/* SASLprep sorts marks that combine, in a time that grows with the square of their number and cannot be interrupted: a minute
 * for a hundred thousand. No client of the gateway sends a longer one in clear (protocol/pgwire/frames.py). */
#define PASSWORD_BYTES_MAX 1000

#define WITHHELD "CREATE or ALTER ROLE (the text is withheld, for it holds a password)"

static const struct config_enum_entry policies[] = {
	{"strict", POLICY_STRICT, false},
	{"neon", POLICY_NEON, false},
	{NULL, 0, false},
};
static int	policy = POLICY_STRICT;

/* The role whose password was found good within the statement that runs; empty if there is none. */
static NameData checked_role;

static check_password_hook_type next_check = NULL;
static ProcessUtility_hook_type next_utility = NULL;

/*
 * Does not return. The context is where the statement that held the password would be quoted, to the log and to the
 * client as well; whoever catches the error puts the stack back.
 */
#define REFUSE(hint, ...) \
	do { \
		error_context_stack = NULL; \
		ereport(ERROR, \
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg(__VA_ARGS__), errhint(hint), \
				 errhidestmt(true), errhidecontext(true))); \
	} while (0)

static void
require_iterations(int iterations)
{
	if (iterations < ITERATIONS_MIN || iterations > ITERATIONS_MAX)
		REFUSE("Leave scram_iterations at its default.",
			   "a password must be hashed with %d to %d iterations, not %d",
			   ITERATIONS_MIN, ITERATIONS_MAX, iterations);
}

/* (1) Its form. A hash cannot be judged, so it is taken from the platform only, which makes its passwords itself. */
static void
require_own_hash(const char *secret)
{
	int			iterations,
				key_length;
	char	   *salt;
	pg_cryptohash_type hash;
	uint8		stored_key[SCRAM_MAX_KEY_LEN],
				server_key[SCRAM_MAX_KEY_LEN];

	if (!parse_scram_secret(secret, &iterations, &hash, &key_length, &salt, stored_key, server_key))
		elog(ERROR, "a SCRAM secret cannot be read");
	require_iterations(iterations);
	if (!session_is_platform())
		REFUSE("Send the password itself over your TLS connection, ALTER ROLE … PASSWORD '…' instead of \\password, or "
			   "reset it through the API.",
			   "a password that is already hashed cannot be checked");
}

/* (2) Its strength, as what PBKDF2 is given: SASLprep makes full-width letters letters. */
static void
require_strength(const char *role, const char *password)
{
	const char *names[2];
	char	   *database = get_database_name(MyDatabaseId);
	char	   *prepared = NULL;
	char		why[ESTIMATE_WHY_MAX];
	Estimate	estimate;

	names[0] = role;
	names[1] = database != NULL ? database : "";
	if (pg_saslprep(password, &prepared) != SASLPREP_SUCCESS)
		prepared = NULL;
	estimate = estimate_password(prepared != NULL ? prepared : password,
								 strlen(prepared != NULL ? prepared : password), names, lengthof(names), policy);
	if (prepared != NULL)
		explicit_bzero(prepared, strlen(prepared));
	if (estimate_is_enough(&estimate, policy))
		return;
	estimate_why(&estimate, policy, why);
	REFUSE("Take at least 16 random characters, from a password manager for instance, or let the API make a password.",
		   "the password has about %.0f bits of entropy, %.0f are required: %s",
		   floor(estimate.bits), BITS_REQUIRED, why);
}

static void
check_password(const char *role, const char *password, PasswordType type, Datum valid_until, bool is_always_valid)
{
	if (next_check)
		next_check(role, password, type, valid_until, is_always_valid);
	switch (type)
	{
		case PASSWORD_TYPE_MD5:
			REFUSE("Send the password itself; it is stored as SCRAM.", "MD5 passwords are not accepted");
			break;
		case PASSWORD_TYPE_SCRAM_SHA_256:
			require_own_hash(password);
			break;
		case PASSWORD_TYPE_PLAINTEXT:
			if (Password_encryption != PASSWORD_TYPE_SCRAM_SHA_256)
				REFUSE("RESET password_encryption.", "passwords are stored as SCRAM only");
			require_iterations(scram_sha_256_iterations);
			if (strlen(password) > PASSWORD_BYTES_MAX)
				REFUSE("Take at least 16 random characters, and some dozens at most.",
					   "a password has at most %d bytes", PASSWORD_BYTES_MAX);
			require_strength(role, password);
			break;
	}
	namestrcpy(&checked_role, role);
}

/* Does the statement set a password? */
static bool
sets_password(Node *statement)
{
	List	   *options = NIL;
	ListCell   *cell;

	if (IsA(statement, CreateRoleStmt))
		options = castNode(CreateRoleStmt, statement)->options;
	else if (IsA(statement, AlterRoleStmt))
		options = castNode(AlterRoleStmt, statement)->options;
	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "password") == 0 && option->arg != NULL)
			return true;
	}
	return false;
}

static void
password_utility(PlannedStmt *pstmt, const char *query, bool is_tree_read_only, ProcessUtilityContext context,
				 ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type next = next_utility != NULL ? next_utility : standard_ProcessUtility;
	ErrorContextCallback *outer = error_context_stack;

	if (!sets_password(pstmt->utilityStmt))
	{
		next(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
		return;
	}
	/* (1) Out of pg_stat_activity, for what is left of this statement and after it. */
	pgstat_report_activity(STATE_RUNNING, WITHHELD);
	/* (2) No error of the statement, be it "role already exists", gets the context of a function that quotes it. */
	error_context_stack = NULL;
	namestrcpy(&checked_role, "");
	PG_TRY();
	{
		next(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
		/* (3) In the same transaction: the password and who vouches for it stay or go together. */
		if (NameStr(checked_role)[0] != '\0')
			ledger_vouch(NameStr(checked_role));
	}
	PG_FINALLY();
	{
		namestrcpy(&checked_role, "");
	}
	PG_END_TRY();
	error_context_stack = outer;
}

void
password_init(void)
{
	DefineCustomEnumVariable("guard.password_policy", "How the strength of passwords is measured.", NULL,
							 &policy, POLICY_STRICT, policies, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	next_check = check_password_hook;
	check_password_hook = check_password;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = password_utility;
}
