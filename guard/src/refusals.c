/*
 * What was refused, kept where the platform can read it: so many times, this statement, by this role.
 *
 * An error alone tells nobody: a function may catch it, and what a client is told, the platform does not read. So every
 * refusal of policy.c and claims.c is counted here first, in shared memory (tally.c), and counted stays counted whatever
 * becomes of the transaction. Nothing of the statement is kept but its name. The platform reads `guard.refused`
 * (control/computes/refusals.py).
 */
#include "guard.h"
#include "tally.h"

static Tally *refusals = NULL;
static char *forgotten = NULL;

void
refusal_note(const char *what)
{
	tally_note(refusals, what, "");
}

static const char *
show_refused(void)
{
	return tally_show(refusals);
}

static void
assign_refused(const char *value, void *extra)
{
	tally_assign(refusals, value);
}

void
refusals_init(void)
{
	DefineCustomStringVariable("guard.refused",
							   "What tenants' sessions were refused.",
							   NULL, &forgotten, "", PGC_SUSET, GUC_DISALLOW_IN_FILE | GUC_NOT_IN_SAMPLE,
							   tally_check, assign_refused, show_refused);
	tally_keep("guard refusals", &refusals);
}
