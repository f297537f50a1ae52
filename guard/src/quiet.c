/*
 * What a client's statement says does not get into the server's log.
 *
 * The log's settings keep statements and parameters out of it. That leaves the messages themselves: a password without
 * quotes is quoted by the syntax error that it makes, a value by the error of its conversion, and a DO block by the
 * context of whatever goes wrong in it. So of a message from a client's session only the SQLSTATE is logged, unless its
 * class says that the server is in trouble and not the statement; then the text is logged as well, without context. The
 * client is told everything.
 */
#include "guard.h"

#include <time.h>

#include "catalog/pg_authid_d.h"
#include "miscadmin.h"

static emit_log_hook_type next_emit_log = NULL;

/* Success (startup, checkpoints and the like), warnings, connections, transaction states, resources, limits, the wrong
 * moment, the operator, the system, its configuration and internal errors. */
static const char *const classes_of_the_server[] = {
	"00", "01", "08", "25", "40", "53", "54", "55", "57", "58", "F0", "XX",
};

/* Processes that run what a tenant wrote: parallel workers with a client's statement, autovacuum with the functions of
 * indexes. */
static bool
works_for_tenant(void)
{
	switch (MyBackendType)
	{
		case B_BACKEND:
		case B_WAL_SENDER:
		case B_BG_WORKER:
		case B_AUTOVAC_WORKER:
			return !session_is_platform();
		default:
			return false;
	}
}

static bool
is_about_the_server(const ErrorData *error)
{
	const char *state = unpack_sql_state(error->sqlerrcode);
	size_t		i;

	/* The end of the process is the server's business, and the tenant has no say in its words. */
	if (error->elevel >= FATAL)
		return true;
	for (i = 0; i < lengthof(classes_of_the_server); i++)
		if (strncmp(state, classes_of_the_server[i], 2) == 0)
			return true;
	return false;
}

/* In UTC, because a tenant has a say in the session's time zone and its name. */
static void
log_without_text(const ErrorData *error)
{
	char		moment[32] = "";
	time_t		now = time(NULL);
	struct tm	parts;

	if (gmtime_r(&now, &parts) != NULL)
		strftime(moment, sizeof(moment), "%Y-%m-%d %H:%M:%S UTC", &parts);
	write_stderr("%s [%d] %s:  %s (the text is the client's alone)\n",
				 moment, MyProcPid, error_severity(error->elevel), unpack_sql_state(error->sqlerrcode));
}

static void
quiet_emit_log(ErrorData *error)
{
	if (next_emit_log)
		next_emit_log(error);
	if (!error->output_to_server || !works_for_tenant())
		return;
	error->hide_stmt = true;
	error->hide_ctx = true;
	if (is_about_the_server(error) && error->internalquery == NULL)
		return;
	error->output_to_server = false;
	log_without_text(error);
}

void
quiet_init(void)
{
	next_emit_log = emit_log_hook;
	emit_log_hook = quiet_emit_log;
}
