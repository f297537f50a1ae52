/* Passwords. */
#include "guard.h"

void
password_init(void)
{
}
