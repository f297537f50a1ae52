/*
 * guard: what a compute's server refuses, wherever the statement comes from.
 *
 * One module, preloaded on the command line (node/postgres/tuning.py). Each file below is one concern with one `_init`,
 * called once in the postmaster before any client is let in; `guard.c` calls them and nothing else does.
 *
 *   password.c   passwords: their strength and form
 *   estimate.c   how many bits a password has; knows nothing of PostgreSQL
 *   ledger.c     which stored verifiers are of checked passwords
 *   quiet.c      no text of a client's in the log
 *   policy.c     statements that a tenant may not run
 *   space.c      no writing when the volume is nearly full
 *   archive.c    finished WAL segments into the outbox
 *   claims.c     what a token said, beyond the reach of the session it opened
 *   refusals.c   what was refused, for the platform to read
 *   powers.c     who was made more powerful, for the platform to read
 *   tally.c      what these two count
 *   touched.c    what is done inside the server, for the platform to read
 */
#ifndef GUARD_H
#define GUARD_H

#include "postgres.h"

/* Chains the hooks that are set when it is called: the last one called is the outermost. */
extern void quiet_init(void);
extern void ledger_init(void);
extern void policy_init(void);
extern void password_init(void);
extern void space_init(void);
extern void archive_init(void);
extern void claims_init(void);
extern void refusals_init(void);
extern void powers_init(void);
extern void touched_init(void);

/*
 * Is it the platform that acts: the bootstrap superuser, who logged in as that and is that at this moment? Code of a
 * tenant that runs in a session of the platform's (an index's function, say) has another current user, and SET SESSION
 * AUTHORIZATION does not change who logged in.
 */
extern bool session_is_platform(void);

/* Did a token open the session, with claims that only this one session may have (claims.c)? */
extern bool session_has_token(void);

/* A utility statement that changes nothing, or only runs statements that come by the hooks themselves. CALL and DO, which do that too,
 * are not among them: what they run is code. */
struct Node;
extern bool statement_is_harmless(struct Node *statement);

/* The role's verifier, as the current transaction sees it, is of a password that was checked. */
extern void ledger_vouch(const char *role);

#define REFUSED_BYTES_MAX 32

/* Count a refusal, before its error is raised. `what` is a statement's name, or one of ours, and of fewer bytes than
 * REFUSED_BYTES_MAX. */
extern void refusal_note(const char *what);

/* Is so little free that the archive must not take any of it? */
extern bool space_is_short_for_history(void);

#endif
