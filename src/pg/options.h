/*-------------------------------------------------------------------------
 *
 * options.h
 *	  Arguments and options of the SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_OPTIONS_H
#define MOE_OPTIONS_H

#include "../engine/moe.h"
#include "utils/jsonb.h"

/* Kinds of functions, which differ in the options that they know */
typedef enum MoeScope
{
	MOE_SCOPE_GENERATE = 1,
	MOE_SCOPE_CHAT = 2,
	MOE_SCOPE_STREAM = 4,		/* in addition to one of the two above */
	MOE_SCOPE_EMBED = 8,
	MOE_SCOPE_TEMPLATE = 16,
	MOE_SCOPE_LOAD = 32,
	MOE_SCOPE_VALUE = 64		/* in addition to the first ones: a value per prompt */
} MoeScope;

#define MOE_DEFAULT_MAX_TOKENS 128

/*
 * All options of all functions.  Strings are palloc'ed, zero-terminated UTF-8,
 * and NULL if not given; so are the JSON values.
 */
typedef struct MoeOptions
{
	/* generate, chat and their streams */
	int			max_tokens;
	double		temperature;
	bool		has_seed;
	int64		seed;
	char	  **stop;
	int			n_stop;
	int			top_k;
	double		top_p;
	double		min_p;
	double		repeat_penalty;
	int			repeat_last_n;
	bool		ignore_eos;
	bool		show_special;
	bool		logprobs;		/* streams */
	bool		add_special;	/* generate and embed */
	bool		parse_special;
	char	   *on_error;		/* functions with a value per prompt */

	/* chat and apply_chat_template */
	char	   *system;
	char	   *tools;			/* JSON array */
	char	   *template;
	char	   *variables;		/* JSON object */
	bool		has_enable_thinking;
	bool		enable_thinking;
	bool		has_add_generation_prompt;
	bool		add_generation_prompt;

	/* load_model */
	bool		replace;
	int			n_ctx;
	char	   *kv_type;
	char	   *quantize;
	char	   *chat_template;
	char	   *query_prefix;
	char	   *passage_prefix;
} MoeOptions;

extern void moe_options_init(MoeOptions *options);
extern void moe_options_read(MoeOptions *options, Jsonb *json, int scope);
extern void moe_options_set_stop(MoeOptions *options, ArrayType *array);
extern void moe_options_check(const MoeOptions *options);
extern void moe_options_request(const MoeOptions *options, moe_request *request);
extern bool moe_options_null_on_error(const MoeOptions *options);
extern moe_kv_type moe_options_kv_type(const MoeOptions *options);
extern moe_quantize moe_options_quantize(const MoeOptions *options);
extern char *moe_options_template_json(const MoeOptions *options);

#endif							/* MOE_OPTIONS_H */
