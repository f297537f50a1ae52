/*
 * No writing when the volume is nearly full.
 *
 * A tenant may fill its volume, and that must be an error of the statement that did it (53100, disk_full) and no outage.
 * PostgreSQL answers so when a table cannot grow. When WAL cannot, it has to stop (PANIC). So statements that take room are
 * stopped while there is still some, and what is kept back is WAL's: for COMMIT, for what frees room, for checkpoints.
 *
 *   statements                                            go on while more is free than
 *   ----------                                            -----------------------------
 *   take room: INSERT, UPDATE, MERGE, COPY FROM,          the reserve (guard.space_reserve)
 *     CREATE ..., REINDEX, REFRESH, CLUSTER, ALTER TABLE
 *     with a rewrite, large objects
 *   any, while it writes temporary files                  three quarters of it
 *   any, while it writes WAL (a SELECT that is the first  an eighth of it
 *     to see rows does)
 *   free room, but write WAL first: DELETE, VACUUM,       an eighth of it
 *     VACUUM FULL (for one big table the only way)
 *   everything else: SELECT, COMMIT, TRUNCATE, DROP       nothing
 *
 * Looked at twice: before such a statement starts, with a reading that may be some milliseconds old, and every TICK_MS while
 * it runs, by a timeout that cancels it. What it takes between two ticks, and what sessions side by side take, the reserve
 * must hold.
 *
 * WAL itself takes room for good when it is archived in the same volume, for a segment that is shared with the archive
 * cannot be written over in place. Autovacuum alone would fill the volume then, and nothing can stop it. So history
 * yields to being there: below three quarters of the reserve the archive module keeps none and asks for a checkpoint at once (see
 * archive.c), and WAL goes round in what it has.
 *
 * Left to others: large objects written from within a function. For them, and if this module is wrong, the margin of
 * node/volumes/headroom.py is the second line.
 */
#include "guard.h"

#include <sys/vfs.h>
#include <time.h>

#include "catalog/objectaccess.h"
#include "catalog/pg_largeobject.h"
#include "catalog/pg_proc.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#define TICK_MS 25
/* A second's writing at 400 MB/s, which is more than two cores do, in forty pieces of 10 MB. */

#define READING_MS 10
/* Short against a tick, long against a statement. */

#define HISTORY_SHARE(reserve) ((reserve) / 4 * 3)
#define FREEING_SHARE(reserve) ((reserve) / 8)
/* Of the reserve: what temporary files and history leave, and what statements that free room leave. */

typedef enum Need
{
	NEEDS_NOTHING,				/* unless it spills */
	FREES_ROOM,
	TAKES_ROOM,
} Need;

static int	reserve_kb = 0;		/* 0: the volume is not this cluster's own, so nothing is kept. */

static ExecutorRun_hook_type next_run = NULL;
static ProcessUtility_hook_type next_utility = NULL;
static object_access_hook_type next_object_access = NULL;
static emit_log_hook_type next_emit_log = NULL;

static TimeoutId tick_timeout;
static bool is_registered = false;

/* Of what runs now: the signal handler reads the first and writes the second. */
static volatile uint64 floor_bytes = 0;
static volatile bool is_watched = false;
static volatile sig_atomic_t was_cancelled = false;
static int64 spilled_blocks = 0;	/* As of the last tick. */
static uint64 wal_bytes = 0;

static bool writes_large_objects = false;	/* Said by the object access hook, while the plan is made ready. */

static uint64
floor_of(Need need)
{
	uint64		reserve = (uint64) reserve_kb * 1024;

	return need == TAKES_ROOM ? reserve : need == FREES_ROOM ? FREEING_SHARE(reserve) : 0;
}

/* The server's working directory is its data directory. A file system that cannot be asked is not full. Async-signal-safe:
 * it is one system call. */
static bool
read_free(uint64 *free_bytes, uint64 *size_bytes)
{
	struct statfs space;

	if (statfs(".", &space) != 0)
		return false;
	*free_bytes = (uint64) space.f_bavail * space.f_bsize;
	*size_bytes = (uint64) space.f_blocks * space.f_bsize;
	return true;
}

bool
space_is_short_for_history(void)
{
	uint64		free_bytes;
	uint64		size_bytes;

	return reserve_kb > 0 && read_free(&free_bytes, &size_bytes) &&
		free_bytes < HISTORY_SHARE((uint64) reserve_kb * 1024);
}

static uint64
recent_free(void)
{
	static uint64 last_free = 0;
	static int64 last_ms = 0;
	struct timespec now;
	int64		now_ms;
	uint64		size;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);	/* Some nanoseconds, and exact to a few milliseconds. */
	now_ms = (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
	if (last_ms == 0 || now_ms - last_ms >= READING_MS)
	{
		if (!read_free(&last_free, &size))
			last_free = PG_UINT64_MAX;
		last_ms = now_ms;
	}
	return last_free;
}

static const char *const advice =
	"Make room: DROP or TRUNCATE what is not needed, or DELETE rows and VACUUM (FULL) their table.";

static char *
how_full(void)
{
	uint64		free_bytes = 0;
	uint64		size_bytes = 0;

	(void) read_free(&free_bytes, &size_bytes);
	return psprintf("the volume is full: " UINT64_FORMAT " MB of " UINT64_FORMAT
					" MB are left, which are kept for the server to go on with",
					free_bytes / (1024 * 1024), size_bytes / (1024 * 1024));
}

static void
require_room(Need need)
{
	if (need != NEEDS_NOTHING && recent_free() < floor_of(need))
		ereport(ERROR, (errcode(ERRCODE_DISK_FULL), errmsg_internal("%s", how_full()), errhint("%s", advice)));
}

/* In a signal handler. */
static void
tick(void)
{
	int			saved_errno = errno;
	uint64		lowest = floor_bytes;
	uint64		free_bytes;
	uint64		size_bytes;

	if (pgBufferUsage.temp_blks_written != spilled_blocks)
	{
		spilled_blocks = pgBufferUsage.temp_blks_written;
		lowest = Max(lowest, HISTORY_SHARE((uint64) reserve_kb * 1024));
	}
	if (pgWalUsage.wal_bytes != wal_bytes)
	{
		wal_bytes = pgWalUsage.wal_bytes;
		lowest = Max(lowest, FREEING_SHARE((uint64) reserve_kb * 1024));
	}
	if (is_watched && lowest > 0 && read_free(&free_bytes, &size_bytes) && free_bytes < lowest)
	{
		was_cancelled = true;
		QueryCancelPending = true;
		InterruptPending = true;
		SetLatch(MyLatch);
	}
	errno = saved_errno;
}

/* PostgreSQL says that a user cancelled the statement, which nobody did. It cannot be caught before it gets here by a
 * function's WHEN OTHERS, and one that catches it by its name is cancelled again by the next tick. */
static void
space_emit_log(ErrorData *error)
{
	if (was_cancelled && error->sqlerrcode == ERRCODE_QUERY_CANCELED && error->elevel >= ERROR)
	{
		was_cancelled = false;
		error->sqlerrcode = ERRCODE_DISK_FULL;
		error->message = how_full();
		error->hint = pstrdup(advice);
	}
	if (next_emit_log)
		next_emit_log(error);
}

typedef struct Outer
{
	uint64		floor_bytes;
	bool		is_watched;
} Outer;

/* The strictest of the nested statements is in force; the outermost arms the timeout. Returns what to give to `leave`. */
static Outer
enter(Need need)
{
	Outer		outer = {floor_bytes, is_watched};

	require_room(need);
	if (!outer.is_watched)
	{
		if (!is_registered)
		{
			tick_timeout = RegisterTimeout(USER_TIMEOUT, tick);
			is_registered = true;
		}
		was_cancelled = false;
		spilled_blocks = pgBufferUsage.temp_blks_written;
		wal_bytes = pgWalUsage.wal_bytes;
		is_watched = true;
		enable_timeout_every(tick_timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), TICK_MS), TICK_MS);
	}
	floor_bytes = Max(outer.floor_bytes, floor_of(need));
	return outer;
}

static void
leave(Outer outer)
{
	floor_bytes = outer.floor_bytes;
	is_watched = outer.is_watched;
	if (!is_watched)
		disable_timeout(tick_timeout, false);	/* No system call: a signal that is under way finds nothing to do. */
}

/* A tick that came at the very end must not hit the next statement. */
static void
tell_cancelled(void)
{
	if (was_cancelled)
		CHECK_FOR_INTERRUPTS();
}

/* Is there anything to do for this statement that is not done for the one around it? */
static bool
is_asked(Need need)
{
	return reserve_kb > 0 && (need != NEEDS_NOTHING || !is_watched);
}

static Need
need_of_command(CmdType command)
{
	switch (command)
	{
		case CMD_INSERT:
		case CMD_UPDATE:
		case CMD_MERGE:
			return TAKES_ROOM;
		case CMD_DELETE:
			return FREES_ROOM;
		default:
			return NEEDS_NOTHING;
	}
}

static Need
need_of_plan(PlannedStmt *plan)
{
	Need		need = need_of_command(plan->commandType);
	ListCell   *cell;

	if (plan->hasModifyingCTE)
		foreach(cell, plan->subplans)
			if (lfirst(cell) != NULL && IsA(lfirst(cell), ModifyTable))
				need = Max(need, need_of_command(((ModifyTable *) lfirst(cell))->operation));
	if (writes_large_objects)
		need = TAKES_ROOM;
	return need;
}

#if PG_VERSION_NUM >= 180000
#define RUN_ARGUMENTS QueryDesc *query, ScanDirection direction, uint64 count
#define RUN_VALUES query, direction, count
#else
#define RUN_ARGUMENTS QueryDesc *query, ScanDirection direction, uint64 count, bool is_once
#define RUN_VALUES query, direction, count, is_once
#endif

static void
run(RUN_ARGUMENTS)
{
	if (next_run)
		next_run(RUN_VALUES);
	else
		standard_ExecutorRun(RUN_VALUES);
}

static void
space_run(RUN_ARGUMENTS)
{
	Need		need = need_of_plan(query->plannedstmt);
	Outer		outer;

	writes_large_objects = false;
	if (!is_asked(need))
	{
		run(RUN_VALUES);
		return;
	}
	outer = enter(need);
	PG_TRY();
	{
		run(RUN_VALUES);
		tell_cancelled();
	}
	PG_FINALLY();
	{
		leave(outer);
	}
	PG_END_TRY();
}

static Need
need_of_vacuum(VacuumStmt *stmt)
{
	return stmt->is_vacuumcmd ? FREES_ROOM : NEEDS_NOTHING;
}

/* What may copy the table, build an index or fill a column; the rest changes a few rows of the catalog. */
static Need
need_of_alter_table(AlterTableStmt *stmt)
{
	ListCell   *cell;

	foreach(cell, stmt->cmds)
		switch (lfirst_node(AlterTableCmd, cell)->subtype)
		{
			case AT_AddColumn:
			case AT_AlterColumnType:
#if PG_VERSION_NUM >= 170000
			case AT_SetExpression:
#endif
			case AT_AddConstraint:
			case AT_AddIndex:
			case AT_AddIndexConstraint:
			case AT_SetNotNull:
			case AT_SetLogged:
			case AT_SetUnLogged:
			case AT_SetAccessMethod:
			case AT_AddIdentity:
				return TAKES_ROOM;
			default:
				break;
		}
	return NEEDS_NOTHING;
}

static Need
need_of_utility(Node *node)
{
	switch (nodeTag(node))
	{
		case T_CopyStmt:
			return ((CopyStmt *) node)->is_from ? TAKES_ROOM : NEEDS_NOTHING;
		case T_VacuumStmt:
			return need_of_vacuum((VacuumStmt *) node);
		case T_AlterTableStmt:
			return need_of_alter_table((AlterTableStmt *) node);
		case T_CreateStmt:
		case T_CreateForeignTableStmt:
		case T_CreateTableAsStmt:
		case T_RefreshMatViewStmt:
		case T_IndexStmt:
		case T_ReindexStmt:
		case T_ClusterStmt:
		case T_CreatedbStmt:
		case T_CreateExtensionStmt:
		case T_CreateSchemaStmt:
		case T_CreateSeqStmt:
		case T_CreateFunctionStmt:
		case T_CreateDomainStmt:
		case T_CreateEnumStmt:
		case T_CreateRangeStmt:
		case T_CompositeTypeStmt:
		case T_CreateTrigStmt:
		case T_CreateStatsStmt:
		case T_ViewStmt:
		case T_RuleStmt:
			return TAKES_ROOM;
		default:
			return NEEDS_NOTHING;
	}
}

static void
utility(PlannedStmt *pstmt, const char *query, bool is_tree_read_only, ProcessUtilityContext context,
		ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	if (next_utility)
		next_utility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
}

static void
space_utility(PlannedStmt *pstmt, const char *query, bool is_tree_read_only, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Need		need = need_of_utility(pstmt->utilityStmt);
	Outer		outer;

	if (need == NEEDS_NOTHING || !is_asked(need))
	{
		utility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
		return;
	}
	outer = enter(need);
	PG_TRY();
	{
		utility(pstmt, query, is_tree_read_only, context, params, environment, dest, completion);
		tell_cancelled();
	}
	PG_FINALLY();
	{
		leave(outer);
	}
	PG_END_TRY();
}

/* Functions are announced here when a plan that calls them is made ready, and when a client calls one directly. */
static void
space_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *argument)
{
	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, argument);
	if (access != OAT_FUNCTION_EXECUTE)
		return;
	switch (object_id)
	{
		case F_LO_CREAT:
		case F_LO_CREATE:
		case F_LO_FROM_BYTEA:
		case F_LO_PUT:
		case F_LOWRITE:
		case F_LO_TRUNCATE:
		case F_LO_TRUNCATE64:
			if (reserve_kb > 0)
				require_room(TAKES_ROOM);
			writes_large_objects = true;
			break;
		default:
			break;
	}
}

void
space_init(void)
{
	DefineCustomIntVariable("guard.space_reserve",
							"Room in the volume that statements must leave to the server.",
							NULL, &reserve_kb, 0, 0, INT_MAX, PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);

	next_run = ExecutorRun_hook;
	ExecutorRun_hook = space_run;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = space_utility;
	next_object_access = object_access_hook;
	object_access_hook = space_object_access;
	next_emit_log = emit_log_hook;
	emit_log_hook = space_emit_log;
}
