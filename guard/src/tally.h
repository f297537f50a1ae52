/* What is counted for the platform to read: see tally.c. */
#ifndef TALLY_H
#define TALLY_H

#include "utils/guc.h"

typedef struct Tally Tally;

#define TALLY_BYTES_MAX 160

/* Once, from an `_init`: shared memory for one, which `tally` leads to as soon as there is any, and again after a crash of a
 * session. */
extern void tally_keep(const char *name, Tally **tally);

/* `what` is of letters, commas, underscores and spaces, and of fewer bytes than TALLY_BYTES_MAX; `whom` may be "". Before
 * there is shared memory, it does nothing. */
extern void tally_note(Tally *tally, const char *what, const char *whom);

/* A setting's hooks. */
extern const char *tally_show(Tally *tally);
extern bool tally_check(char **value, void **extra, GucSource source);
extern void tally_assign(Tally *tally, const char *value);

#endif
