/*-------------------------------------------------------------------------
 *
 * client.c
 *	  Is the client still there?
 *
 * A server whose client_connection_check_interval is 0, as it is by default,
 * notices that a client has gone when it sends it something.  A generation would
 * be computed to its end for nobody, so whoever computes or waits for the engine looks
 * once a second.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/timeout.h"

/* Declared in libpq/libpq.h, which may want headers of GSSAPI that are not there */
extern bool pq_check_connection(void);

static TimeoutId look_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t look_is_due = false;

static void
look_timeout_handler(void)
{
	look_is_due = true;			/* and the latch has been set */
}

/*
 * Look, if a second has passed; a client that has gone is an interrupt.  Raises no
 * error.
 */
void
moe_look_for_client(void)
{
	if (MyProcPort == NULL || client_connection_check_interval > 0)
		return;
	if (look_is_due)
	{
		look_is_due = false;
		if (!pq_check_connection())
		{
			ClientConnectionLost = true;
			InterruptPending = true;
		}
	}
	if (look_timeout == MAX_TIMEOUTS)
		look_timeout = RegisterTimeout(USER_TIMEOUT, look_timeout_handler);
	if (!get_timeout_active(look_timeout))
		enable_timeout_after(look_timeout, MOE_CLIENT_LOOK_MS);
}

/*
 * CHECK_FOR_INTERRUPTS() for those who compute or wait for the engine
 */
void
moe_check_for_interrupts(void)
{
	moe_look_for_client();
	CHECK_FOR_INTERRUPTS();
}
