/*-------------------------------------------------------------------------
 *
 * prompt.h
 *	  Prompts: from SQL values to token ids.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_PROMPT_H
#define MOE_PROMPT_H

#include "host.h"
#include "options.h"
#include "utils/array.h"

typedef struct MoeTokens
{
	int32_t    *ids;			/* palloc'ed; NULL: the prompt is wrong */
	size_t		n;
} MoeTokens;

/* What a prompt argument may be */
typedef enum MoePromptType
{
	MOE_PROMPT_TEXT,
	MOE_PROMPT_TOKENS,			/* int[] */
	MOE_PROMPT_JSON,			/* messages */
	MOE_PROMPT_JSONB
} MoePromptType;

extern void *moe_adopt(void *block, size_t size);
extern MoeTokens moe_tokens_of_text(const MoeOpenModel *model, const char *prefix, const text *t,
									unsigned flags, moe_error *err);
extern MoeTokens moe_tokens_of_array(ArrayType *array, moe_error *err);
extern Datum moe_array_of_tokens(const int32_t *ids, size_t n);
extern MoeTokens moe_tokens_of_prompt(const MoeOpenModel *model, Datum prompt, MoePromptType type,
									  const MoeOptions *options, moe_error *err);
extern char *moe_chat_messages(Datum prompt, MoePromptType type, moe_error *err);
extern char *moe_chat_prompt(const MoeOpenModel *model, const char *messages,
							 const char *template_json, size_t *len, moe_error *err);
extern MoeTokens moe_tokens_of_chat(const MoeOpenModel *model, Datum prompt, MoePromptType type,
									const MoeOptions *options, bool *ends_in_think, moe_error *err);

#endif							/* MOE_PROMPT_H */
