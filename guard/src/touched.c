/*
 * What is done inside the server, where no client's wire shows it: which tables statements touch, and which statements
 * functions, DO blocks, triggers and workers run.
 *
 * The gateway records what clients ask (docs/adr/0024-statement-audit.md). This is the other half, for the same levels:
 *
 *   level       noted here
 *   -----       ----------
 *   off         nothing: each hook reads one number and goes on
 *   base        utility statements from within (DDL in a DO block, say)
 *   extended    and who writes which table, with the statement's text where that came from within; COPY
 *   full        and who reads which
 *
 * A statement comes *from within* if its text is not what the client sent. What the client sent, the gateway has: of that only
 * the tables are noted. System catalogs are not, and neither is what the platform itself does.
 *
 * A line is noted before the statement does anything, so one that fails, or is rolled back, is noted as well; its rows are added
 * at its end, if it has one. The same statement on the same table by the same role in the same session is one line that
 * counts. Lines are kept in shared memory; when three quarters of them are used, new ones are noted without their text, and when
 * all are, they are only counted as lost, which the platform writes down as a gap. Nobody waits.
 *
 * The platform, every few seconds (control/computes/touched.py), in a session of its own:
 *
 *   SHOW guard.touched                            a line of numbers (`show_touched`), and one for each that is kept
 *   SET LOCAL guard.touched =                     forget what is up to that number, and so many of the lost; this is the level
 *     '<number> <lost> <level>'                   from now on
 *
 * Nobody else is shown anything: texts are of other roles, and not masked yet.
 */
#include "guard.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid_d.h"
#include "commands/dbcommands.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "libpq/libpq-be.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/queryjumble.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "tcop/cmdtag.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define LINES_MAX 1024
#define LINES_WITH_TEXT_MAX (LINES_MAX / 4 * 3)
#define TEXT_BYTES 1000
/* 1.5 MB if all are used, and no page of it before. A text is cut; what it was is said by `text_bytes`. */

#define READS 1
#define INSERTS 2
#define UPDATES 4
#define DELETES 8
#define WRITES (INSERTS | UPDATES | DELETES)

enum Level
{
	LEVEL_OFF,
	LEVEL_BASE,
	LEVEL_EXTENDED,
	LEVEL_FULL,
};

static const struct config_enum_entry levels[] = {
	{"off", LEVEL_OFF, false},
	{"base", LEVEL_BASE, false},
	{"extended", LEVEL_EXTENDED, false},
	{"full", LEVEL_FULL, false},
	{NULL, 0, false}
};

/* What makes a line the same as another: compared byte by byte, so made of zeros first. */
typedef struct What
{
	int64		since;			/* When its process began, for pids come again. */
	int32		pid;
	int32		text_bytes;		/* Of the whole text; 0 of what the client sent. */
	uint32		access;			/* 0: no table */
	uint32		is_worker;
	NameData	login;			/* Who logged in, and whose rights it has at this moment. */
	NameData	role;
	NameData	database;
	NameData	schema;
	NameData	relation;
	NameData	command;
	char		text[TEXT_BYTES];
} What;

typedef struct Line
{
	What		what;
	uint64		last;			/* Which of all was the last of these. */
	uint64		times;
	uint64		rows;
	TimestampTz began;
	TimestampTz ended;
} Line;

typedef struct Touched
{
	volatile int level;
	LWLock	   *lock;
	int64		epoch;			/* Another one: shared memory was made anew, and what nobody had read is gone. */
	uint64		total;
	uint64		lost;
	int			lines;
	uint64		hash[LINES_MAX];
	Line		line[LINES_MAX];
} Touched;

static Touched *touched = NULL;
static int	level_at_start = LEVEL_OFF;
static char *taken = NULL;

static shmem_request_hook_type next_request = NULL;
static shmem_startup_hook_type next_startup = NULL;
static ExecutorStart_hook_type next_start = NULL;
static ExecutorEnd_hook_type next_end = NULL;
static ProcessUtility_hook_type next_utility = NULL;

static bool
is_from_within(const char *source)
{
	return debug_query_string == NULL || (source != debug_query_string && strcmp(source, debug_query_string) != 0);
}

/* A parallel worker does a part of what its leader has noted, and what functions that run there ask by themselves: only that is
 * its own. (Its `debug_query_string` is the statement that it does a part of.) What may run in a transaction that has failed
 * (ROLLBACK) touches nothing, and no name can be looked up there. */
static int
level_here(const char *source)
{
	if (touched == NULL || touched->level == LEVEL_OFF)
		return LEVEL_OFF;
	if (IsParallelWorker() && !is_from_within(source))
		return LEVEL_OFF;
	return session_is_platform() || !IsTransactionState() ? LEVEL_OFF : touched->level;
}

/* Takes the name, which is freed: a loop in a function comes by here a million times in one memory context. */
static void
set_name(NameData *name, char *given)
{
	memset(name, 0, sizeof(*name));
	if (given == NULL)
		return;
	namestrcpy(name, given);
	pfree(given);
}

static void
begin_what(What *what, const char *source, int location, int length, const char *command)
{
	memset(what, 0, sizeof(*what));
	what->pid = MyProcPid;
	what->since = MyStartTimestamp;
	what->is_worker = MyProcPort == NULL;
	set_name(&what->login, MyProcPort != NULL ? pstrdup(MyProcPort->user_name) :
			 GetUserNameFromId(GetAuthenticatedUserId(), true));
	set_name(&what->role, GetUserNameFromId(GetUserId(), true));
	set_name(&what->database, get_database_name(MyDatabaseId));
	namestrcpy(&what->command, command);
	if (is_from_within(source))
	{
		const char *text = CleanQuerytext(source, &location, &length);

		what->text_bytes = length;
		memcpy(what->text, text, pg_mbcliplen(text, length, TEXT_BYTES));
	}
}

static void
set_relation(What *what, Oid relation, uint32 access)
{
	Oid			schema = get_rel_namespace(relation);

	set_name(&what->schema, OidIsValid(schema) ? get_namespace_name(schema) : NULL);
	set_name(&what->relation, get_rel_name(relation));
	what->access = access;
}

/* Of what is not zeros, and only to find a line: what is found is compared whole. */
static uint64
hash_of(const What *what)
{
	size_t		length = offsetof(What, text) + Min(what->text_bytes, TEXT_BYTES);

	return hash_bytes_extended((const unsigned char *) what, length, 0);
}

/* With the lock held. -1: there is no room. */
static int
line_of(const What *what, uint64 hash, int lines_max)
{
	int			i;

	for (i = 0; i < touched->lines; i++)
		if (touched->hash[i] == hash && memcmp(&touched->line[i].what, what, sizeof(*what)) == 0)
			return i;
	if (i >= lines_max)
		return -1;
	touched->lines++;
	touched->hash[i] = hash;
	memset(&touched->line[i], 0, sizeof(Line));
	touched->line[i].what = *what;
	touched->line[i].began = GetCurrentTimestamp();
	return i;
}

static void
note(What *what, int times, uint64 rows)
{
	uint64		hash = hash_of(what);
	int			i;

	LWLockAcquire(touched->lock, LW_EXCLUSIVE);
	touched->total++;
	i = line_of(what, hash, what->text_bytes > 0 ? LINES_WITH_TEXT_MAX : LINES_MAX);
	if (i < 0 && what->text_bytes > 0)
	{
		memset(what->text, 0, TEXT_BYTES);
		what->text_bytes = 0;
		i = line_of(what, hash_of(what), LINES_MAX);
	}
	if (i < 0)
		touched->lost += times;
	else
	{
		touched->line[i].times += times;
		touched->line[i].rows += rows;
		touched->line[i].last = touched->total;
		touched->line[i].ended = GetCurrentTimestamp();
	}
	LWLockRelease(touched->lock);
}

static uint32
access_of(const RTEPermissionInfo *wanted)
{
	uint32		access = 0;

	if (wanted->requiredPerms & ACL_SELECT)
		access |= READS;
	if (wanted->requiredPerms & ACL_INSERT)
		access |= INSERTS;
	if (wanted->requiredPerms & ACL_UPDATE)
		access |= UPDATES;
	if (wanted->requiredPerms & ACL_DELETE)
		access |= DELETES;
	return access;
}

static uint32
noted_access_of(const RTEPermissionInfo *wanted, int level)
{
	uint32		access = access_of(wanted);

	if ((level < LEVEL_FULL && (access & WRITES) == 0) || IsCatalogRelationOid(wanted->relid))
		return 0;
	return access;
}

static bool
is_worth_noting(QueryDesc *query, int level)
{
	ListCell   *cell;

	foreach(cell, query->plannedstmt->permInfos)
		if (noted_access_of(lfirst_node(RTEPermissionInfo, cell), level) != 0)
			return true;
	return level == LEVEL_FULL && is_from_within(query->sourceText);
}

static void
note_query(QueryDesc *query, int level, int times, uint64 rows)
{
	PlannedStmt *plan = query->plannedstmt;
	What		what;
	ListCell   *cell;
	bool		is_noted = false;

	if (!is_worth_noting(query, level))
		return;
	begin_what(&what, query->sourceText, plan->stmt_location, plan->stmt_len,
			   GetCommandTagName(plan->commandType == CMD_SELECT ? CMDTAG_SELECT :
								 plan->commandType == CMD_INSERT ? CMDTAG_INSERT :
								 plan->commandType == CMD_UPDATE ? CMDTAG_UPDATE :
								 plan->commandType == CMD_DELETE ? CMDTAG_DELETE : CMDTAG_MERGE));
	foreach(cell, plan->permInfos)
	{
		RTEPermissionInfo *wanted = lfirst_node(RTEPermissionInfo, cell);
		uint32		access = noted_access_of(wanted, level);

		if (access == 0)
			continue;
		set_relation(&what, wanted->relid, access);
		note(&what, times, rows);
		is_noted = true;
	}
	/* Of a statement from within the wire has nothing, so it is noted without a table, too. */
	if (!is_noted)
	{
		set_relation(&what, InvalidOid, 0);
		note(&what, times, rows);
	}
}

static void
touched_start(QueryDesc *query, int flags)
{
	int			level = level_here(query->sourceText);

	if (level >= LEVEL_EXTENDED && (flags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		note_query(query, level, 1, 0);
	if (next_start)
		next_start(query, flags);
	else
		standard_ExecutorStart(query, flags);
}

static void
touched_end(QueryDesc *query)
{
	int			level = level_here(query->sourceText);

	if (level >= LEVEL_EXTENDED && query->estate != NULL)
	{
		uint64		rows = Max(query->estate->es_processed, query->estate->es_total_processed);

		if (rows > 0)
			note_query(query, level, 0, rows);
	}
	if (next_end)
		next_end(query);
	else
		standard_ExecutorEnd(query);
}

/* COPY of a table goes past the executor. */
static bool
begin_copy(What *what, const CopyStmt *copy, int level)
{
	Oid			relation;

	if (copy->relation == NULL || level < (copy->is_from ? LEVEL_EXTENDED : LEVEL_FULL))
		return false;
	relation = RangeVarGetRelid(copy->relation, NoLock, true);
	if (!OidIsValid(relation))
		return false;
	set_relation(what, relation, copy->is_from ? INSERTS : READS);
	return true;
}

static bool
changes_nothing(Node *statement)
{
	return statement_is_harmless(statement) || IsA(statement, CallStmt) || IsA(statement, DoStmt);
}

static void
touched_utility(PlannedStmt *pstmt, const char *query, bool is_tree_read_only, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	int			level = level_here(query);
	What		what;
	bool		is_copy = false;

	if (level > LEVEL_OFF && (IsA(pstmt->utilityStmt, CopyStmt) || is_from_within(query)))
	{
		begin_what(&what, query, pstmt->stmt_location, pstmt->stmt_len, CreateCommandName(pstmt->utilityStmt));
		is_copy = IsA(pstmt->utilityStmt, CopyStmt) && begin_copy(&what, (CopyStmt *) pstmt->utilityStmt, level);
		if (is_copy || (what.text_bytes > 0 && (level == LEVEL_FULL || !changes_nothing(pstmt->utilityStmt))))
			note(&what, 1, 0);
	}
	if (next_utility)
		next_utility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
	if (is_copy && completion != NULL && completion->nprocessed > 0)
		note(&what, 0, completion->nprocessed);
}

/* What came in between is kept, with what it had before: counted twice rather than never. */
static void
forget(uint64 upto, uint64 lost)
{
	int			kept = 0;
	int			i;

	LWLockAcquire(touched->lock, LW_EXCLUSIVE);
	for (i = 0; i < touched->lines; i++)
		if (touched->line[i].last > upto)
		{
			if (kept < i)
			{
				touched->line[kept] = touched->line[i];
				touched->hash[kept] = touched->hash[i];
			}
			kept++;
		}
	touched->lines = kept;
	touched->lost -= Min(lost, touched->lost);
	LWLockRelease(touched->lock);
}

static void
append_hex(StringInfo text, const char *bytes, int count)
{
	int			i;

	appendStringInfoString(text, " x");
	for (i = 0; i < count; i++)
		appendStringInfo(text, "%02x", (unsigned char) bytes[i]);
}

static void
append_line(StringInfo text, const Line *line)
{
	const What *what = &line->what;
	const NameData *names[] = {&what->login, &what->role, &what->database, &what->schema, &what->relation, &what->command};
	size_t		i;

	appendStringInfo(text, "\n" UINT64_FORMAT " " UINT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT " %d %u %u %d",
					 line->times, line->rows, line->began, line->ended, what->pid, what->is_worker, what->access,
					 what->text_bytes);
	for (i = 0; i < lengthof(names); i++)
		append_hex(text, NameStr(*names[i]), strlen(NameStr(*names[i])));
	append_hex(text, what->text, strnlen(what->text, TEXT_BYTES));
}

/* Epoch, level, number of all, number of the lost, and the lines. Names and texts may be in any encoding: they are in hex. */
static const char *
show_touched(void)
{
	StringInfoData text;
	int			i;

	if (touched == NULL || !session_is_platform())
		return "";
	initStringInfo(&text);
	LWLockAcquire(touched->lock, LW_SHARED);
	appendStringInfo(&text, INT64_FORMAT " %d " UINT64_FORMAT " " UINT64_FORMAT,
					 touched->epoch, touched->level, touched->total, touched->lost);
	for (i = 0; i < touched->lines; i++)
		append_line(&text, &touched->line[i]);
	LWLockRelease(touched->lock);
	return text.data;
}

static bool
check_touched(char **value, void **extra, GucSource source)
{
	if (source == PGC_S_DEFAULT)
		return true;
	if (source == PGC_S_SESSION && session_is_platform())
		return true;
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("what is recorded of a server is the platform's to say");
	return false;
}

static void
assign_touched(const char *value, void *extra)
{
	unsigned long long upto;
	unsigned long long lost;
	int			level;

	if (touched == NULL || value == NULL || sscanf(value, "%llu %llu %d", &upto, &lost, &level) != 3)
		return;
	forget(upto, lost);
	if (level >= LEVEL_OFF && level <= LEVEL_FULL)
		touched->level = level;
}

static void
request_memory(void)
{
	if (next_request)
		next_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(Touched)));
	RequestNamedLWLockTranche("guard touched", 1);
}

/* Also after a crash of a session, when shared memory is made anew. Lines are not written to before they are used. */
static void
make_memory(void)
{
	bool		is_there;

	if (next_startup)
		next_startup();
	touched = ShmemInitStruct("guard touched", sizeof(Touched), &is_there);
	if (is_there)
		return;
	touched->level = level_at_start;
	touched->lock = &GetNamedLWLockTranche("guard touched")->lock;
	touched->epoch = GetCurrentTimestamp();
	touched->total = 0;
	touched->lost = 0;
	touched->lines = 0;
}

void
touched_init(void)
{
	DefineCustomEnumVariable("guard.record", "What is recorded when the server starts.",
							 NULL, &level_at_start, LEVEL_OFF, levels, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("guard.touched", "What was done inside the server.",
							   NULL, &taken, "", PGC_SUSET, GUC_DISALLOW_IN_FILE | GUC_NOT_IN_SAMPLE | GUC_SUPERUSER_ONLY,
							   check_touched, assign_touched, show_touched);
	next_request = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_startup = shmem_startup_hook;
	shmem_startup_hook = make_memory;
	next_start = ExecutorStart_hook;
	ExecutorStart_hook = touched_start;
	next_end = ExecutorEnd_hook;
	ExecutorEnd_hook = touched_end;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = touched_utility;
}
