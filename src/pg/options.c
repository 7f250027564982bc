/*-------------------------------------------------------------------------
 *
 * options.c
 *	  Arguments and options of the SQL functions.
 *
 * Options come as the keys of a jsonb object.  A table says which keys there
 * are, of which type, within which bounds and for which functions; what is not
 * in it is an error, with the nearest key as a hint.  A JSON null leaves the
 * default.  Where a function has an argument of the same name, the key wins.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "encoding.h"
#include "lib/stringinfo.h"
#include "options.h"
#include "suggest.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/json.h"
#include "utils/numeric.h"

typedef enum OptionType
{
	TYPE_BOOL,
	TYPE_INT,
	TYPE_BIGINT,
	TYPE_NUMBER,
	TYPE_STRING,
	TYPE_STRINGS,				/* a string or an array of strings */
	TYPE_ARRAY,					/* any JSON array, kept as JSON */
	TYPE_OBJECT					/* any JSON object, kept as JSON */
} OptionType;

#define SAMPLING (MOE_SCOPE_GENERATE | MOE_SCOPE_CHAT)
#define TEMPLATE (MOE_SCOPE_CHAT | MOE_SCOPE_TEMPLATE)
#define TOKENS (MOE_SCOPE_GENERATE | MOE_SCOPE_EMBED)
#define NO_FLAG 0

typedef struct OptionDef
{
	const char *name;
	OptionType	type;
	int			scope;
	size_t		offset;			/* of the value in MoeOptions */
	size_t		flag;			/* of the bool that says it was given, or NO_FLAG */
	double		min,
				max;			/* numbers; bounds belong to the range */
	const char *hint;			/* what it does, for those who gave it a wrong value */
} OptionDef;

#define AT(field) offsetof(MoeOptions, field)

static const OptionDef option_defs[] = {
	{"max_tokens", TYPE_INT, SAMPLING, AT(max_tokens), NO_FLAG, 0, PG_INT32_MAX,
	"At most so many tokens are generated, without it 128, with 0 none."},
	{"temperature", TYPE_NUMBER, SAMPLING, AT(temperature), NO_FLAG, 0, 1000,
	"0 always takes the likeliest token, 1 draws from the model's own distribution."},
	{"seed", TYPE_BIGINT, SAMPLING, AT(seed), AT(has_seed), 0, 0,
	"The same seed, a number of type bigint, gives the same text again; without one each call draws its own."},
	{"stop", TYPE_STRINGS, SAMPLING, AT(stop), NO_FLAG, 0, 0,
	"The text ends before the first of these, for example [\"\\n\", \"Q:\"]."},
	{"top_k", TYPE_INT, SAMPLING, AT(top_k), NO_FLAG, 0, PG_INT32_MAX,
	"Tokens are drawn from so many of the likeliest; 0 switches it off."},
	{"top_p", TYPE_NUMBER, SAMPLING, AT(top_p), NO_FLAG, 0, 1,
	"Tokens are drawn from the likeliest that have this probability together; 1 switches it off."},
	{"min_p", TYPE_NUMBER, SAMPLING, AT(min_p), NO_FLAG, 0, 1,
	"Tokens are drawn from those that have at least this part of the likeliest one's probability; 0 switches it off."},
	{"repeat_penalty", TYPE_NUMBER, SAMPLING, AT(repeat_penalty), NO_FLAG, 0.01, 100,
	"More than 1 makes repetitions rarer; 1 switches it off."},
	{"repeat_last_n", TYPE_INT, SAMPLING, AT(repeat_last_n), NO_FLAG, -1, PG_INT32_MAX,
	"So many of the last tokens count for repeat_penalty; -1 stands for all, 0 for none."},
	{"ignore_eos", TYPE_BOOL, SAMPLING, AT(ignore_eos), NO_FLAG, 0, 0,
	"With true a text ends only after max_tokens or with a stop string."},
	{"show_special", TYPE_BOOL, SAMPLING, AT(show_special), NO_FLAG, 0, 0,
	"With true special tokens are written out."},
	{"logprobs", TYPE_BOOL, MOE_SCOPE_STREAM, AT(logprobs), NO_FLAG, 0, 0,
	"With false the column logprob is not filled."},
	{"add_special", TYPE_BOOL, TOKENS, AT(add_special), NO_FLAG, 0, 0,
	"With true the tokens that the model wants around a prompt are put there."},
	{"parse_special", TYPE_BOOL, TOKENS, AT(parse_special), NO_FLAG, 0, 0,
	"With true special tokens that are written in the prompt are recognised."},
	{"on_error", TYPE_STRING, MOE_SCOPE_VALUE, AT(on_error), NO_FLAG, 0, 0,
	"With \"null\" a text that can't be answered gives NULL, with \"error\" an error."},
	{"system", TYPE_STRING, MOE_SCOPE_CHAT, AT(system), NO_FLAG, 0, 0,
	"It is the text of a message that comes before the others."},
	{"tools", TYPE_ARRAY, TEMPLATE, AT(tools), NO_FLAG, 0, 0,
	"For example [{\"type\": \"function\", \"function\": {\"name\": \"now\"}}]."},
	{"template", TYPE_STRING, TEMPLATE, AT(template), NO_FLAG, 0, 0,
	"It is a Jinja template that takes the place of the model's."},
	{"variables", TYPE_OBJECT, TEMPLATE, AT(variables), NO_FLAG, 0, 0,
	"Its keys become variables of the chat template, for example {\"lang\": \"en\"}."},
	{"enable_thinking", TYPE_BOOL, TEMPLATE, AT(enable_thinking), AT(has_enable_thinking), 0, 0,
	"The chat templates of some models leave out the reasoning with false."},
	{"add_generation_prompt", TYPE_BOOL, MOE_SCOPE_TEMPLATE, AT(add_generation_prompt),
	AT(has_add_generation_prompt), 0, 0,
	"With true the prompt ends where the answer begins."},
	{"replace", TYPE_BOOL, MOE_SCOPE_LOAD, AT(replace), NO_FLAG, 0, 0,
	"With true the model takes the place of one of that name."},
	{"n_ctx", TYPE_INT, MOE_SCOPE_LOAD, AT(n_ctx), NO_FLAG, 1, PG_INT32_MAX,
	"It is a number of tokens, at most what the model was trained for."},
	{"kv_type", TYPE_STRING, MOE_SCOPE_LOAD, AT(kv_type), NO_FLAG, 0, 0,
	"\"f16\" takes half of the memory; \"auto\" is \"f32\" for models with unquantised weights."},
	{"quantize", TYPE_STRING, MOE_SCOPE_LOAD, AT(quantize), NO_FLAG, 0, 0,
	"With \"bf16\", unquantised weights are kept in 16 bits, with \"q8_0\" in 8: faster, in less memory, with slightly different results."},
	{"chat_template", TYPE_STRING, MOE_SCOPE_LOAD, AT(chat_template), NO_FLAG, 0, 0,
	"It is a Jinja template that takes the place of the file's."},
	{"query_prefix", TYPE_STRING, MOE_SCOPE_LOAD, AT(query_prefix), NO_FLAG, 0, 0,
	"It is put before texts that are embedded with kind 'query'."},
	{"passage_prefix", TYPE_STRING, MOE_SCOPE_LOAD, AT(passage_prefix), NO_FLAG, 0, 0,
	"It is put before texts that are embedded with kind 'passage'."},
};

/*
 * Set all options to their defaults
 */
void
moe_options_init(MoeOptions *options)
{
	memset(options, 0, sizeof(MoeOptions));
	options->max_tokens = MOE_DEFAULT_MAX_TOKENS;
	options->top_p = 1.0;
	options->repeat_penalty = 1.0;
	options->repeat_last_n = 64;
	options->logprobs = true;
	options->add_special = true;
}

_Noreturn static void
throw_wrong_type(const OptionDef *def, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must be %s", def->name, expected),
			 errhint("%s", def->hint)));
}

/*
 * The same for a string that is none of those an option knows
 */
_Noreturn static void
throw_wrong_word(const char *name, const char *expected)
{
	for (int i = 0; i < lengthof(option_defs); i++)
		if (strcmp(option_defs[i].name, name) == 0)
			throw_wrong_type(&option_defs[i], expected);
	elog(ERROR, "no option is named \"%s\"", name);
}

_Noreturn static void
throw_unknown(const char *name, int scope)
{
	MoeSuggestion suggestion;
	StringInfoData valid;

	initStringInfo(&valid);
	moe_suggest_begin(&suggestion, name);
	for (int i = 0; i < lengthof(option_defs); i++)
	{
		if ((option_defs[i].scope & scope) == 0)
			continue;
		moe_suggest_candidate(&suggestion, option_defs[i].name);
		appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", option_defs[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized option \"%s\"", name),
			 suggestion.best ? errhint("Did you mean \"%s\"?", suggestion.best)
			 : errhint("The options of this function are %s.", valid.data)));
}

/*
 * A number within its bounds
 */
static double
number_value(const OptionDef *def, const JsonbValue *value)
{
	double		number;

	if (value->type != jbvNumeric)
		throw_wrong_type(def, "a number");
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8,
												NumericGetDatum(value->val.numeric)));
	if (!(number >= def->min && number <= def->max))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be between %.10g and %.10g",
						def->name, def->min, def->max),
				 errhint("%s", def->hint)));
	return number;
}

/*
 * True if a whole number is one of bigint's
 */
static bool
fits_bigint(Numeric number)
{
	Numeric		most = int64_to_numeric(PG_INT64_MAX);
	Numeric		least = int64_to_numeric(PG_INT64_MIN);

	return DatumGetBool(DirectFunctionCall2(numeric_le, NumericGetDatum(number),
											NumericGetDatum(most))) &&
		DatumGetBool(DirectFunctionCall2(numeric_ge, NumericGetDatum(number),
										 NumericGetDatum(least)));
}

/*
 * A whole number
 */
static int64
integer_value(const OptionDef *def, const JsonbValue *value)
{
	Numeric		number;

	if (value->type == jbvNumeric)
	{
		number = DatumGetNumeric(DirectFunctionCall2(numeric_trunc,
													 NumericGetDatum(value->val.numeric),
													 Int32GetDatum(0)));
		if (DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(number),
											 NumericGetDatum(value->val.numeric))) &&
			fits_bigint(number))
			return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(number)));
	}
	throw_wrong_type(def, "an integer");
}

static char *
string_value(const OptionDef *def, const JsonbValue *value, const char *expected)
{
	if (value->type != jbvString)
		throw_wrong_type(def, expected);
	return moe_utf8_cstring(value->val.string.val, value->val.string.len);
}

static void
add_stop(MoeOptions *options, char *string)
{
	if (string[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stop strings must not be empty"),
				 errhint("NULL or an empty array means none.")));
	options->stop[options->n_stop++] = string;
}

static void
read_stop(MoeOptions *options, const OptionDef *def, JsonbValue *value)
{
	static const char *const expected = "a string or an array of strings";
	JsonbContainer *array;
	JsonbValue *element;

	options->n_stop = 0;
	if (value->type == jbvString)
	{
		options->stop = palloc(sizeof(char *));
		add_stop(options, string_value(def, value, expected));
		return;
	}
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		throw_wrong_type(def, expected);
	array = value->val.binary.data;
	options->stop = palloc(sizeof(char *) * Max(JsonContainerSize(array), 1));
	for (uint32 i = 0; i < JsonContainerSize(array); i++)
	{
		element = getIthJsonbValueFromContainer(array, i);
		add_stop(options, string_value(def, element, expected));
	}
}

/*
 * An array or object as JSON text
 */
static char *
json_value(const OptionDef *def, const JsonbValue *value)
{
	bool		is_array = value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
	bool		is_object = value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
	char	   *json;

	if (def->type == TYPE_ARRAY && !is_array)
		throw_wrong_type(def, "an array");
	if (def->type == TYPE_OBJECT && !is_object)
		throw_wrong_type(def, "an object");
	json = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
	return moe_utf8_cstring(json, strlen(json));
}

static void
read_option(MoeOptions *options, const OptionDef *def, JsonbValue *value)
{
	void	   *field = (char *) options + def->offset;

	switch (def->type)
	{
		case TYPE_BOOL:
			if (value->type != jbvBool)
				throw_wrong_type(def, "true or false");
			*(bool *) field = value->val.boolean;
			break;
		case TYPE_INT:
			(void) integer_value(def, value);
			*(int *) field = (int) number_value(def, value);
			break;
		case TYPE_BIGINT:
			*(int64 *) field = integer_value(def, value);
			break;
		case TYPE_NUMBER:
			*(double *) field = number_value(def, value);
			break;
		case TYPE_STRING:
			*(char **) field = string_value(def, value, "a string");
			break;
		case TYPE_STRINGS:
			read_stop(options, def, value);
			break;
		case TYPE_ARRAY:
		case TYPE_OBJECT:
			*(char **) field = json_value(def, value);
			break;
	}
	if (def->flag != NO_FLAG)
		*(bool *) ((char *) options + def->flag) = true;
}

/*
 * Read the options that functions of this scope know; json may be NULL
 */
void
moe_options_read(MoeOptions *options, Jsonb *json, int scope)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (json == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errhint("For example '{\"top_k\": 40}'.")));

	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		const OptionDef *def = NULL;
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		for (int i = 0; i < lengthof(option_defs) && def == NULL; i++)
			if ((option_defs[i].scope & scope) != 0 && strcmp(option_defs[i].name, name) == 0)
				def = &option_defs[i];
		if (def == NULL)
			throw_unknown(name, scope);
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvNull)
			read_option(options, def, &value);
	}
}

/*
 * Set the stop strings from an SQL array
 */
void
moe_options_set_stop(MoeOptions *options, ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	options->n_stop = 0;
	options->stop = palloc(sizeof(char *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		text	   *element;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("stop strings must not be null"),
					 errhint("array_remove() takes them out.")));
		element = DatumGetTextPP(elements[i]);
		add_stop(options, moe_utf8_cstring(VARDATA_ANY(element), VARSIZE_ANY_EXHDR(element)));
	}
}

/*
 * Check what came as SQL arguments
 */
void
moe_options_check(const MoeOptions *options)
{
	if (options->max_tokens < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_tokens must not be negative"),
				 errhint("With 0 nothing is generated; NULL means the default of 128.")));
	if (!(options->temperature >= 0 && options->temperature <= 1000))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("temperature must be between 0 and 1000"),
				 errhint("0 always takes the likeliest token, 1 draws from the model's own distribution.")));
	if (options->top_p <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"top_p\" must be greater than 0"),
				 errhint("1 switches it off.")));
}

/*
 * Fill a request but for its prompt
 *
 * Without a seed each request draws one, so that sampled texts differ.
 */
void
moe_options_request(const MoeOptions *options, moe_request *request)
{
	memset(request, 0, sizeof(moe_request));
	request->task = MOE_TASK_GENERATE;
	request->max_tokens = options->max_tokens;
	request->temperature = options->temperature;
	request->top_k = options->top_k;
	request->top_p = options->top_p;
	request->min_p = options->min_p;
	request->repeat_penalty = options->repeat_penalty;
	request->repeat_last_n = options->repeat_last_n;
	request->stop = (const char *const *) options->stop;
	request->n_stop = options->n_stop;
	request->ignore_eos = options->ignore_eos;
	request->show_special = options->show_special;
	if (options->has_seed)
		request->seed = (uint64) options->seed;
	else if (options->temperature > 0 &&
			 !pg_strong_random(&request->seed, sizeof(request->seed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not draw a random seed")));
}

/*
 * Does a prompt that can't be answered give NULL instead of an error?
 */
bool
moe_options_null_on_error(const MoeOptions *options)
{
	const char *policy = options->on_error;

	if (policy == NULL || strcmp(policy, "error") == 0)
		return false;
	if (strcmp(policy, "null") == 0)
		return true;
	throw_wrong_word("on_error", "\"error\" or \"null\"");
}

/*
 * The type of the key/value cache that load_model() was told
 */
moe_kv_type
moe_options_kv_type(const MoeOptions *options)
{
	const char *name = options->kv_type;

	if (name == NULL || strcmp(name, "auto") == 0)
		return MOE_KV_AUTO;
	if (strcmp(name, "f16") == 0)
		return MOE_KV_F16;
	if (strcmp(name, "f32") == 0)
		return MOE_KV_F32;
	throw_wrong_word("kv_type", "\"auto\", \"f16\" or \"f32\"");
}

/*
 * How weights are re-encoded, as load_model() was told
 */
moe_quantize
moe_options_quantize(const MoeOptions *options)
{
	const char *name = options->quantize;

	if (name == NULL || strcmp(name, "none") == 0)
		return MOE_QUANTIZE_NONE;
	if (strcmp(name, "q8_0") == 0)
		return MOE_QUANTIZE_Q8_0;
	if (strcmp(name, "bf16") == 0)
		return MOE_QUANTIZE_BF16;
	throw_wrong_word("quantize", "\"none\", \"bf16\" or \"q8_0\"");
}

/*
 * The options of the chat template as the engine takes them: a JSON object in
 * UTF-8
 */
char *
moe_options_template_json(const MoeOptions *options)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"add_generation_prompt\": %s",
					 !options->has_add_generation_prompt || options->add_generation_prompt
					 ? "true" : "false");
	if (options->has_enable_thinking)
		appendStringInfo(&buf, ", \"enable_thinking\": %s",
						 options->enable_thinking ? "true" : "false");
	if (options->tools)
		appendStringInfo(&buf, ", \"tools\": %s", options->tools);
	if (options->variables)
		appendStringInfo(&buf, ", \"variables\": %s", options->variables);
	if (options->template)
	{
		appendStringInfoString(&buf, ", \"template\": ");
		escape_json(&buf, options->template);
	}
	if (options->system)
	{
		appendStringInfoString(&buf, ", \"system\": ");
		escape_json(&buf, options->system);
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}
