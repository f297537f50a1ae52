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

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

static Tally *refusals = NULL;
static char *forgotten = NULL;

static shmem_request_hook_type next_request = NULL;
static shmem_startup_hook_type next_startup = NULL;

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

static void
request_memory(void)
{
	if (next_request)
		next_request();
	RequestAddinShmemSpace(tally_size());
}

static void
make_memory(void)
{
	if (next_startup)
		next_startup();
	refusals = tally_make("guard refusals");
}

void
refusals_init(void)
{
	DefineCustomStringVariable("guard.refused",
							   "What tenants' sessions were refused.",
							   NULL, &forgotten, "", PGC_SUSET, GUC_DISALLOW_IN_FILE | GUC_NOT_IN_SAMPLE,
							   tally_check, assign_refused, show_refused);
	next_request = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_startup = shmem_startup_hook;
	shmem_startup_hook = make_memory;
}
