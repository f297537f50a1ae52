/*
 * The C estimator on a pipe, for tests: reads requests until the end of input, answers each with a line.
 *
 * A request: "POLICY LENGTH NAMES\n", LENGTH bytes of password, then NAMES names, each a line "LENGTH\n" and its bytes.
 */
#include "estimate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 64

static char *
bytes(size_t length)
{
	char	   *place = malloc(length + 1);

	if (place == NULL || fread(place, 1, length, stdin) != length)
		exit(2);
	place[length] = '\0';
	return place;
}

int
main(void)
{
	char		policy_name[8];
	size_t		length,
				names;

	while (scanf("%7s %zu %zu", policy_name, &length, &names) == 3 && getchar() == '\n' && names <= NAMES_MAX)
	{
		EstimatePolicy policy = strcmp(policy_name, "neon") == 0 ? POLICY_NEON : POLICY_STRICT;
		char	   *password = bytes(length);
		char	   *context[NAMES_MAX];
		char		why[ESTIMATE_WHY_MAX];
		Estimate	estimate;
		size_t		i;

		for (i = 0; i < names; i++)
		{
			size_t		size;

			if (scanf("%zu", &size) != 1 || getchar() != '\n')
				return 2;
			context[i] = bytes(size);
		}
		estimate = estimate_password(password, length, (const char *const *) context, names, policy);
		estimate_why(&estimate, policy, why);
		printf("%.9f %zu %u %d %s\n", estimate.bits, estimate.characters, estimate.kinds,
			   estimate_is_enough(&estimate, policy), why);
		fflush(stdout);
		for (i = 0; i < names; i++)
			free(context[i]);
		free(password);
	}
	return feof(stdin) ? 0 : 2;
}
