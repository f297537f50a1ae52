/*
 * How many bits a password has. Plain C: it allocates nothing, knows nothing of PostgreSQL and is the same, to a hundredth
 * of a bit, as src/cloister/protocol/passwords; guard/vectors.jsonl holds both to the same results.
 */
#ifndef ESTIMATE_H
#define ESTIMATE_H

#include <stddef.h>

#define BITS_REQUIRED 60.0
#define CHARACTERS_REQUIRED 12	/* by POLICY_STRICT only */
#define CHARACTERS_MAX 100		/* that are looked at: what comes after them counts nothing, so the work is bounded */

/* What it was found to be made of, beside single characters. */
#define KIND_WORD 1
#define KIND_CONTEXT 2
#define KIND_REPEAT 4
#define KIND_SEQUENCE 8
#define KIND_KEYBOARD 16
#define KIND_DATE 32

typedef enum EstimatePolicy
{
	POLICY_STRICT,				/* patterns are worth what a guesser pays for them */
	POLICY_NEON,				/* every character counts, for drop-in use */
} EstimatePolicy;

typedef struct Estimate
{
	double		bits;
	size_t		characters;
	unsigned	kinds;
} Estimate;

/*
 * `password` is UTF-8 after SASLprep; a byte that is none counts as a character of its own. `context`: names that a
 * guesser knows, of the role and the database.
 */
extern Estimate estimate_password(const char *password, size_t length, const char *const *context, size_t names,
								  EstimatePolicy policy);

extern int	estimate_is_enough(const Estimate *estimate, EstimatePolicy policy);

/*
 * A clause for a message that refuses the password, which holds nothing of it. `place` must have room for ESTIMATE_WHY_MAX
 * bytes.
 */
#define ESTIMATE_WHY_MAX 256
extern void estimate_why(const Estimate *estimate, EstimatePolicy policy, char *place);

#endif
