/*
 * What was refused, kept where the platform can read it: so many times, this statement, by this role.
 *
 * An error alone tells nobody: a function may catch it, and what a client is told, the platform does not read. So every
 * refusal of policy.c and claims.c is counted here first, in shared memory, and counted stays counted whatever becomes of the
 * transaction. Nothing of the statement is kept but its name.
 *
 * The platform, every few seconds (control/computes/refusals.py), in a session of its own:
 *
 *   SHOW guard.refused                           the number of all refusals so far, and a line for each kind not yet forgotten
 *   SET LOCAL guard.refused = '<that number>'    what was read and written down is forgotten
 *
 * If it dies in between, it reads the same again. A tenant may read it (members of pg_monitor may read every setting), and
 * cannot make it forget.
 */
#include "guard.h"

#include "libpq/libpq-be.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#define KINDS_MAX 8
/* Of pairs of statement and role. Each may become an event of the audit log every few seconds, so there are few; beyond them all are one kind. */

typedef struct Kind
{
	char		what[REFUSED_BYTES_MAX];
	NameData	role;			/* Who logged in. */
	uint64		count;
	uint64		last;			/* Which of all refusals was the last of these. */
} Kind;

typedef struct Refusals
{
	slock_t		lock;
	uint64		total;
	int			kinds;
	Kind		kind[KINDS_MAX];
} Refusals;

static Refusals *refusals = NULL;
static char *forgotten = NULL;

static shmem_request_hook_type next_request = NULL;
static shmem_startup_hook_type next_startup = NULL;

static bool
is_kind(const Kind *kind, const char *what, const char *role)
{
	return strcmp(kind->what, what) == 0 && strcmp(NameStr(kind->role), role) == 0;
}

void
refusal_note(const char *what)
{
	NameData	role;
	int			i;

	if (refusals == NULL)
		return;
	namestrcpy(&role, MyProcPort != NULL ? MyProcPort->user_name : "");
	SpinLockAcquire(&refusals->lock);
	refusals->total++;
	for (i = 0; i < refusals->kinds; i++)
		if (is_kind(&refusals->kind[i], what, NameStr(role)))
			break;
	if (i == KINDS_MAX)
	{
		i = KINDS_MAX - 1;
		strlcpy(refusals->kind[i].what, "others", REFUSED_BYTES_MAX);
		memset(&refusals->kind[i].role, 0, sizeof(NameData));
	}
	else if (i == refusals->kinds)
	{
		refusals->kinds++;
		strlcpy(refusals->kind[i].what, what, REFUSED_BYTES_MAX);
		refusals->kind[i].role = role;
		refusals->kind[i].count = 0;
	}
	refusals->kind[i].count++;
	refusals->kind[i].last = refusals->total;
	SpinLockRelease(&refusals->lock);
}

/* What came in between is kept, with what it had before: counted twice rather than never. */
static void
forget(uint64 upto)
{
	int			kept = 0;
	int			i;

	SpinLockAcquire(&refusals->lock);
	for (i = 0; i < refusals->kinds; i++)
		if (refusals->kind[i].last > upto)
			refusals->kind[kept++] = refusals->kind[i];
	refusals->kinds = kept;
	SpinLockRelease(&refusals->lock);
}

/* A role's name may be in any encoding: it is shown in hex. */
static const char *
show_refused(void)
{
	Refusals	now;
	StringInfoData text;
	int			i;

	if (refusals == NULL)
		return "";
	SpinLockAcquire(&refusals->lock);
	memcpy(&now, refusals, sizeof(now));
	SpinLockRelease(&refusals->lock);

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT, now.total);
	for (i = 0; i < now.kinds; i++)
	{
		const char *role = NameStr(now.kind[i].role);

		appendStringInfo(&text, "\n" UINT64_FORMAT " x", now.kind[i].count);
		for (; *role != '\0'; role++)
			appendStringInfo(&text, "%02x", (unsigned char) *role);
		appendStringInfo(&text, " %s", now.kind[i].what);
	}
	return text.data;
}

static bool
check_refused(char **value, void **extra, GucSource source)
{
	if (source == PGC_S_DEFAULT)
		return true;
	if (source == PGC_S_SESSION && session_is_platform())
		return true;
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("what was refused is the platform's to forget");
	return false;
}

static void
assign_refused(const char *value, void *extra)
{
	if (refusals != NULL && value != NULL && *value != '\0')
		forget(strtou64(value, NULL, 10));
}

static void
request_memory(void)
{
	if (next_request)
		next_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(Refusals)));
}

/* Also after a crash of a session, when shared memory is made anew. */
static void
make_memory(void)
{
	bool		is_there;

	if (next_startup)
		next_startup();
	refusals = ShmemInitStruct("guard refusals", sizeof(Refusals), &is_there);
	if (!is_there)
	{
		memset(refusals, 0, sizeof(Refusals));
		SpinLockInit(&refusals->lock);
	}
}

void
refusals_init(void)
{
	DefineCustomStringVariable("guard.refused",
							   "What tenants' sessions were refused.",
							   NULL, &forgotten, "", PGC_SUSET, GUC_DISALLOW_IN_FILE | GUC_NOT_IN_SAMPLE,
							   check_refused, assign_refused, show_refused);
	next_request = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_startup = shmem_startup_hook;
	shmem_startup_hook = make_memory;
}
