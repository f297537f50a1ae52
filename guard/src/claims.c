/*
 * The verified claims of a token, where a session can read them and not change them.
 *
 * Whoever comes with a token instead of a password (edge/sql/tokens.py) may run any SQL, and row security decides by what
 * the token says: `current_setting('request.jwt.claims', true)`, PostgREST's name. A setting that the session itself could
 * set would be worth nothing, in a batch of two statements least of all. So the gateway puts the claims into the startup
 * packet of a session of its own, with a second setting that says so: `guard.has_token`, which only a startup packet can set.
 * Where it is on, the claims stay what they were at the start, for the whole life of the session: SET, SET LOCAL,
 * set_config(), a function's SET clause are refused, and RESET and DISCARD lead back to the same claims. Nor can it make another
 * session that has none: it gives its role no password, and changes nothing else of it (policy.c).
 *
 * Sessions with a password are not touched: PostgREST, which verifies tokens itself, sets its claims in each transaction.
 * A server with an older guard refuses `guard.has_token`, and with it the session, instead of letting claims be forged.
 */
#include "guard.h"

#include "utils/guc.h"

static bool has_token = false;
static char *claims = NULL;

bool
session_has_token(void)
{
	return has_token;
}

static bool
check_claims(char **value, void **extra, GucSource source)
{
	/* PGC_S_TEST is ALTER ROLE or DATABASE ... SET: it is about other sessions, and weaker than a startup packet. */
	if (!has_token || source < PGC_S_INTERACTIVE || source == PGC_S_TEST)
		return true;
	refusal_note("token claims");
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("the claims of a token cannot be changed");
	GUC_check_errhint("They are what the token says, for as long as the session lasts.");
	return false;
}

void
claims_init(void)
{
	DefineCustomBoolVariable("guard.has_token",
							 "The session's claims are those of a verified token.",
							 NULL, &has_token, false, PGC_BACKEND, GUC_DISALLOW_IN_FILE, NULL, NULL, NULL);
	DefineCustomStringVariable("request.jwt.claims",
							   "The claims of the token that the session was opened with, as JSON.",
							   NULL, &claims, "", PGC_USERSET, 0, check_claims, NULL, NULL);
}
