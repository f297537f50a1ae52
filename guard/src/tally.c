/*
 * Counted, kept in shared memory where the platform can read it: so many times this, by this role, to this one. See
 * refusals.c and powers.c, which have one each.
 *
 * The platform, every few seconds (control/computes/tallies.py), in a session of its own:
 *
 *   SHOW guard.<tally>                          the number of all so far, and a line for each kind not yet forgotten
 *   SET LOCAL guard.<tally> = '<that number>'   what was read and written down is forgotten
 *
 * If it dies in between, it reads the same again. A tenant may read it (members of pg_monitor may read every setting), and
 * cannot make it forget.
 */
#include "guard.h"
#include "tally.h"

#include "lib/stringinfo.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#define KINDS_MAX 8
/* Each may become an event of the audit log every few seconds, so there are few; beyond them all are one kind. */

typedef struct Kind
{
	char		what[TALLY_BYTES_MAX];
	NameData	login;			/* Who logged in. */
	NameData	whom;			/* Nobody: it is about no second role. */
	uint64		count;
	uint64		last;			/* Which of all was the last of these. */
} Kind;

struct Tally
{
	slock_t		lock;
	uint64		total;
	int			kinds;
	Kind		kind[KINDS_MAX];
};

#define TALLIES_MAX 2

static struct
{
	const char *name;
	Tally	  **tally;
}			known[TALLIES_MAX];
static int	tallies = 0;

static shmem_request_hook_type next_request = NULL;
static shmem_startup_hook_type next_startup = NULL;

static void
request_memory(void)
{
	if (next_request)
		next_request();
	RequestAddinShmemSpace(tallies * MAXALIGN(sizeof(Tally)));
}

static void
make_memory(void)
{
	int			i;

	if (next_startup)
		next_startup();
	for (i = 0; i < tallies; i++)
	{
		bool		is_there;
		Tally	   *tally = ShmemInitStruct(known[i].name, sizeof(Tally), &is_there);

		if (!is_there)
		{
			memset(tally, 0, sizeof(Tally));
			SpinLockInit(&tally->lock);
		}
		*known[i].tally = tally;
	}
}

void
tally_keep(const char *name, Tally **tally)
{
	if (tallies == 0)
	{
		next_request = shmem_request_hook;
		shmem_request_hook = request_memory;
		next_startup = shmem_startup_hook;
		shmem_startup_hook = make_memory;
	}
	if (tallies == TALLIES_MAX)
		elog(ERROR, "more than %d tallies", TALLIES_MAX);
	known[tallies].name = name;
	known[tallies].tally = tally;
	tallies++;
}

static bool
is_same(const Kind *one, const Kind *other)
{
	return strcmp(one->what, other->what) == 0 &&
		strcmp(NameStr(one->login), NameStr(other->login)) == 0 &&
		strcmp(NameStr(one->whom), NameStr(other->whom)) == 0;
}

void
tally_note(Tally *tally, const char *what, const char *whom)
{
	Kind		noted;
	int			i;

	if (tally == NULL)
		return;
	memset(&noted, 0, sizeof(noted));
	strlcpy(noted.what, what, TALLY_BYTES_MAX);
	namestrcpy(&noted.login, MyProcPort != NULL ? MyProcPort->user_name : "");
	namestrcpy(&noted.whom, whom);
	SpinLockAcquire(&tally->lock);
	tally->total++;
	for (i = 0; i < tally->kinds; i++)
		if (is_same(&tally->kind[i], &noted))
			break;
	if (i == KINDS_MAX)
	{
		i = KINDS_MAX - 1;
		strlcpy(tally->kind[i].what, "others", TALLY_BYTES_MAX);
		memset(&tally->kind[i].login, 0, sizeof(NameData));
		memset(&tally->kind[i].whom, 0, sizeof(NameData));
	}
	else if (i == tally->kinds)
	{
		tally->kinds++;
		tally->kind[i] = noted;
	}
	tally->kind[i].count++;
	tally->kind[i].last = tally->total;
	SpinLockRelease(&tally->lock);
}

/* What came in between is kept, with what it had before: counted twice rather than never. */
static void
forget(Tally *tally, uint64 upto)
{
	int			kept = 0;
	int			i;

	SpinLockAcquire(&tally->lock);
	for (i = 0; i < tally->kinds; i++)
		if (tally->kind[i].last > upto)
			tally->kind[kept++] = tally->kind[i];
	tally->kinds = kept;
	SpinLockRelease(&tally->lock);
}

/* A role's name may be in any encoding: it is shown in hex. */
static void
append_name(StringInfo text, const NameData *name)
{
	const char *byte;

	appendStringInfoString(text, " x");
	for (byte = NameStr(*name); *byte != '\0'; byte++)
		appendStringInfo(text, "%02x", (unsigned char) *byte);
}

const char *
tally_show(Tally *tally)
{
	Tally		now;
	StringInfoData text;
	int			i;

	if (tally == NULL)
		return "";
	SpinLockAcquire(&tally->lock);
	memcpy(&now, tally, sizeof(now));
	SpinLockRelease(&tally->lock);

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT, now.total);
	for (i = 0; i < now.kinds; i++)
	{
		const Kind *kind = &now.kind[i];

		appendStringInfo(&text, "\n" UINT64_FORMAT, kind->count);
		append_name(&text, &kind->login);
		if (NameStr(kind->whom)[0] != '\0')
			append_name(&text, &kind->whom);
		appendStringInfo(&text, " %s", kind->what);
	}
	return text.data;
}

bool
tally_check(char **value, void **extra, GucSource source)
{
	if (source == PGC_S_DEFAULT)
		return true;
	if (source == PGC_S_SESSION && session_is_platform())
		return true;
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("what was counted is the platform's to forget");
	return false;
}

void
tally_assign(Tally *tally, const char *value)
{
	if (tally != NULL && value != NULL && *value != '\0')
		forget(tally, strtou64(value, NULL, 10));
}
