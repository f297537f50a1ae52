/* Statements that a tenant may not run. */
#include "guard.h"

void
policy_init(void)
{
}
