/* Where the module is entered: see guard.h. */
#include "guard.h"

#include "catalog/pg_authid_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	/* Loaded later, by LOAD or by a tenant's own setting, it would come after the first statement. */
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("guard is loaded with shared_preload_libraries only")));
	refusals_init();
	quiet_init();
	ledger_init();
	powers_init();				/* within policy: what that refuses gives nobody anything */
	policy_init();
	password_init();			/* outside of policy, whose errors must not get the context of a password either */
	space_init();
	archive_init();
	claims_init();
	touched_init();				/* outermost: what is refused was asked for all the same */
	MarkGUCPrefixReserved("guard");
}

bool
session_is_platform(void)
{
	return GetAuthenticatedUserId() == BOOTSTRAP_SUPERUSERID && GetUserId() == BOOTSTRAP_SUPERUSERID;
}
