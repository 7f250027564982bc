/*-------------------------------------------------------------------------
 *
 * client.h
 *	  Is the client still there?
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_CLIENT_H
#define MOE_CLIENT_H

#define MOE_CLIENT_LOOK_MS 1000 /* from one look to the next */

extern void moe_look_for_client(void);
extern void moe_check_for_interrupts(void);

#endif							/* MOE_CLIENT_H */
