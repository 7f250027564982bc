/*-------------------------------------------------------------------------
 *
 * prompt.c
 *	  Prompts: from SQL values to token ids.
 *
 * A plain prompt is tokenised with the tokens that the model wants around it
 * (a beginning-of-sentence token, say) but without recognising special tokens
 * that are written out in it; the options add_special and parse_special change
 * that.  A chat is rendered by the model's template first.  What comes out mixes
 * the template's special tokens with the users' words and has to be read with
 * special tokens recognised, here as in other engines: do not count on a user
 * being unable to write one.
 *
 * What the engine mallocs is copied into palloc'ed memory at once, so that an
 * error can't leak it.
 *
 * The functions with a moe_error raise what is wrong with a prompt if that is
 * NULL, and otherwise return no ids and say in it what it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "encoding.h"
#include "error.h"
#include "lib/stringinfo.h"
#include "prompt.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

/*
 * A palloc'ed copy of a malloc'ed block, with zeros for one more token behind
 * it; frees the block
 */
void *
moe_adopt(void *block, size_t size)
{
	void	   *copy = MemoryContextAllocExtended(CurrentMemoryContext, size + sizeof(int32_t),
												  MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);

	if (copy != NULL)
	{
		if (size > 0)
			memcpy(copy, block, size);
		memset((char *) copy + size, 0, sizeof(int32_t));
	}
	free(block);
	if (copy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	return copy;
}

/*
 * Raise what is wrong with a prompt, or tell it
 */
static void
refuse(const moe_error *why, moe_error *err)
{
	if (err == NULL || !moe_is_input_error(why))
		moe_throw(why, NULL);
	*err = *why;
}

static MoeTokens
tokenize(const MoeOpenModel *model, const char *s, size_t len, unsigned flags, moe_error *err)
{
	MoeTokens	tokens = {NULL, 0};
	int32_t    *ids = NULL;
	moe_error	why = {0};

	if (moe_tokenize(model->model, s, len, flags, &ids, &tokens.n, &why) != MOE_OK)
		refuse(&why, err);
	else
		tokens.ids = moe_adopt(ids, sizeof(int32_t) * tokens.n);
	return tokens;
}

/*
 * Refuse what has no UTF-8, if that is to be told; else the conversion raises it
 */
static bool
require_utf8(const char *s, size_t len, moe_error *err)
{
	if (err == NULL || moe_utf8_exists(s, len))
		return true;
	err->status = MOE_ERR_INVALID;
	return false;
}

/*
 * Tokens of a text with a prefix (UTF-8, may be "")
 */
MoeTokens
moe_tokens_of_text(const MoeOpenModel *model, const char *prefix, const text *t, unsigned flags,
				   moe_error *err)
{
	MoeUtf8		s;
	StringInfoData buf;

	if (!require_utf8(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t), err))
		return (MoeTokens) {NULL, 0};
	s = moe_utf8_from_text(t);
	if (prefix[0] == '\0')
		return tokenize(model, s.data, s.len, flags, err);

	initStringInfo(&buf);
	appendStringInfoString(&buf, prefix);
	appendBinaryStringInfo(&buf, s.data, (int) s.len);
	return tokenize(model, buf.data, buf.len, flags, err);
}

/*
 * Tokens of an int[]
 */
MoeTokens
moe_tokens_of_array(ArrayType *array, moe_error *err)
{
	MoeTokens	tokens = {NULL, 0};

	if (array_contains_nulls(array))
	{
		if (err == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("token ids must not be null"),
					 errhint("array_remove() takes them out.")));
		err->status = MOE_ERR_INVALID;
		return tokens;
	}
	tokens.n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	tokens.ids = palloc(sizeof(int32_t) * (tokens.n + 1));
	memcpy(tokens.ids, ARR_DATA_PTR(array), sizeof(int32_t) * tokens.n);
	return tokens;
}

/*
 * An int[] of tokens
 */
Datum
moe_array_of_tokens(const int32_t *ids, size_t n)
{
	Datum	   *elements = palloc(sizeof(Datum) * (n + 1));

	for (size_t i = 0; i < n; i++)
		elements[i] = Int32GetDatum(ids[i]);
	return PointerGetDatum(construct_array(elements, (int) n, INT4OID, sizeof(int32), true,
										   TYPALIGN_INT));
}

/*
 * Refuse a prompt without a character
 */
static bool
require_text(const text *prompt, moe_error *err)
{
	static const moe_error empty = {MOE_ERR_INVALID, "the prompt is empty", "",
	"nullif(prompt, '') gives NULL for an empty one."};

	if (VARSIZE_ANY_EXHDR(prompt) > 0)
		return true;
	refuse(&empty, err);
	return false;
}

/*
 * Tokens of a prompt that is not a chat
 */
MoeTokens
moe_tokens_of_prompt(const MoeOpenModel *model, Datum prompt, MoePromptType type,
					 const MoeOptions *options, moe_error *err)
{
	text	   *t;
	unsigned	flags = 0;

	if (type == MOE_PROMPT_TOKENS)
		return moe_tokens_of_array(DatumGetArrayTypeP(prompt), err);
	t = DatumGetTextPP(prompt);
	if (!require_text(t, err))
		return (MoeTokens) {NULL, 0};
	if (options->add_special)
		flags |= MOE_TEXT_ADD_SPECIAL;
	if (options->parse_special)
		flags |= MOE_TEXT_PARSE_SPECIAL;
	return moe_tokens_of_text(model, "", t, flags, err);
}

/*
 * The messages of a chat as a JSON array in UTF-8: those given, or the text as
 * the user's only one
 */
char *
moe_chat_messages(Datum prompt, MoePromptType type, moe_error *err)
{
	StringInfoData buf;
	char	   *s;

	if (type == MOE_PROMPT_JSONB)
	{
		Jsonb	   *jb = DatumGetJsonbP(prompt);

		s = JsonbToCString(NULL, &jb->root, VARSIZE(jb));
	}
	else
		s = TextDatumGetCString(prompt);
	if (!require_utf8(s, strlen(s), err))
		return NULL;
	s = moe_utf8_cstring(s, strlen(s));
	if (type != MOE_PROMPT_TEXT)
		return s;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "[{\"role\": \"user\", \"content\": ");
	escape_json(&buf, s);
	appendStringInfoString(&buf, "}]");
	return buf.data;
}

/*
 * The prompt that the model's chat template makes of messages, palloc'ed UTF-8
 */
char *
moe_chat_prompt(const MoeOpenModel *model, const char *messages, const char *template_json,
				size_t *len, moe_error *err)
{
	char	   *rendered = NULL;
	moe_error	why = {0};

	if (moe_chat_render(model->model, messages, template_json, &rendered, len, &why) == MOE_OK)
		return moe_adopt(rendered, *len);
	refuse(&why, err);
	return NULL;
}

/*
 * Tokens of a chat
 *
 * Most templates write the beginning-of-sentence token themselves; where one
 * does not and the model wants it, it is put in front.
 */
MoeTokens
moe_tokens_of_chat(const MoeOpenModel *model, Datum prompt, MoePromptType type,
				   const MoeOptions *options, bool *ends_in_think, moe_error *err)
{
	const moe_model_info *info = moe_model_info_of(model->model);
	MoeTokens	tokens = {NULL, 0};
	MoeTokens	empty;
	char	   *messages;
	char	   *rendered;
	size_t		len;

	*ends_in_think = false;
	if (type == MOE_PROMPT_TEXT && !require_text(DatumGetTextPP(prompt), err))
		return tokens;
	messages = moe_chat_messages(prompt, type, err);
	if (messages == NULL)
		return tokens;
	rendered = moe_chat_prompt(model, messages, moe_options_template_json(options), &len, err);
	if (rendered != NULL)
		tokens = tokenize(model, rendered, len, MOE_TEXT_PARSE_SPECIAL, err);
	if (tokens.ids == NULL)
		return tokens;

	*ends_in_think = moe_prompt_ends_in_think(rendered, len);
	if (info->bos_id < 0 || (tokens.n > 0 && tokens.ids[0] == info->bos_id))
		return tokens;

	empty = tokenize(model, "", 0, MOE_TEXT_ADD_SPECIAL, NULL);
	if (empty.n > 0 && empty.ids[0] == info->bos_id)
	{
		/* moe_adopt() left room for it */
		memmove(tokens.ids + 1, tokens.ids, sizeof(int32_t) * tokens.n);
		tokens.ids[0] = info->bos_id;
		tokens.n++;
	}
	return tokens;
}
