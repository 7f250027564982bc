/*-------------------------------------------------------------------------
 *
 * channel.h
 *	  How sessions and the shared engine find each other and talk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_CHANNEL_H
#define MOE_CHANNEL_H

#include "../engine/moe.h"
#include "storage/dsm.h"
#include "storage/shm_mq.h"

#define MOE_ISA_NAME_SIZE 16
#define MOE_WEIGHTS_KEY_SIZE 128
#define MOE_ENGINE_MODELS 8		/* that the shared engine keeps open while nobody uses them */

/* What the shared engine tells of itself */
typedef struct MoeEngineStatus
{
	pid_t		pid;			/* 0: it does not run */
	int			isa_setting;	/* values of the settings that it computes with */
	bool		reproducible;
	char		isa[MOE_ISA_NAME_SIZE]; /* in use; "" before its first request */
	int			threads;		/* 0 before its first request */
	int			open_models;
	char		weights[MOE_ENGINE_MODELS][MOE_WEIGHTS_KEY_SIZE];	/* of these; "" if none */
	int			requests_running;
	int			requests_waiting;
	moe_counters counters;		/* summed up over the open models */
} MoeEngineStatus;

/* A session's end of a channel */
typedef struct MoeChannel MoeChannel;

/* The shared engine's end */
typedef struct MoePeer
{
	MemoryContext context;		/* holds this */
	dsm_segment *segment;
	volatile uint32 *gone;		/* set when the session wants no more answers */
	shm_mq_handle *requests;
	shm_mq_handle *events;
} MoePeer;

extern void moe_engine_request_shmem(void);
extern bool moe_engine_is_configured(void);
extern bool moe_engine_is_running(void);
extern bool moe_engine_wait_for_start(int timeout_ms);
extern void moe_engine_status(MoeEngineStatus *status);
extern bool moe_engine_holds(const char *weights_key);
extern void moe_engine_forget_models(void);

extern MoeChannel *moe_channel_open(void);
extern bool moe_channel_send(MoeChannel *channel, const void *message, Size len);
extern void *moe_channel_receive(MoeChannel *channel, Size *len);
extern void moe_channel_wait(MoeChannel *channel);
extern void moe_channel_finish(MoeChannel *channel, const void *message, Size len);
extern void moe_channel_abort(MoeChannel *channel);

extern void moe_engine_enter(void);
extern void moe_engine_publish(const MoeEngineStatus *status);
extern uint32 moe_engine_models_forgotten(void);
extern MoePeer *moe_peer_accept(void);
extern void moe_peer_close(MoePeer *peer);

#endif							/* MOE_CHANNEL_H */
