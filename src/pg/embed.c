/*-------------------------------------------------------------------------
 *
 * embed.c
 *	  moe.embed() and its relatives: texts as vectors of length 1.
 *
 * embed_pinned() names its model by digest, which stands for the files and for
 * all options that change a result, and computes with kernels whose results are
 * the same everywhere; so its answer can never change and it may be declared
 * IMMUTABLE.  embed_as() returns whatever type real[] can be cast to, by the
 * cast's own expression, so that types such as pgvector's need not be known here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "guc.h"
#include "nodes/makefuncs.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"

MOE_FUNCTION(pg_moe_embed);
MOE_FUNCTION(pg_moe_embed_tokens);
MOE_FUNCTION(pg_moe_embed_batch);
MOE_FUNCTION(pg_moe_embed_pinned);
MOE_FUNCTION(pg_moe_embed_as);

/*
 * The prefix that a model wants before texts of a kind; NULL means passage
 */
static const char *
prefix_of_kind(const MoeOpenModel *model, const text *kind)
{
	char	   *name = kind ? text_to_cstring(kind) : "passage";

	if (strcmp(name, "passage") == 0)
		return model->passage_prefix;
	if (strcmp(name, "query") == 0)
		return model->query_prefix;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized kind \"%s\"", name),
			 errhint("The kinds of texts are \"passage\" and \"query\".")));
}

/*
 * Read the arguments model, kind and options, of which the first is the i-th
 */
static void
read_arguments(MoeCall *call, FunctionCallInfo fcinfo, int i)
{
	memset(call, 0, sizeof(MoeCall));
	call->task = MOE_TASK_EMBED;
	moe_options_init(&call->options);
	moe_options_read(&call->options, PG_ARGISNULL(i + 2) ? NULL : PG_GETARG_JSONB_P(i + 2),
					 MOE_SCOPE_EMBED | MOE_SCOPE_VALUE);
	call->null_on_error = moe_options_null_on_error(&call->options);
	call->model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, i)), false);
	call->prefix = prefix_of_kind(call->model, moe_text_arg(fcinfo, i + 1));
}

static bool
setup(MoeCall *call, FunctionCallInfo fcinfo)
{
	read_arguments(call, fcinfo, 1);
	return true;
}

/*
 * Tokens are taken as they are, without prefix or special tokens
 */
static void
read_input(const MoeCall *call, MoePromptType type, Datum datum, MoeInput *input, moe_error *err)
{
	unsigned	flags = 0;

	if (type == MOE_PROMPT_TOKENS)
	{
		input->tokens = moe_tokens_of_array(DatumGetArrayTypeP(datum), err);
		return;
	}
	if (call->options.add_special)
		flags |= MOE_TEXT_ADD_SPECIAL;
	if (call->options.parse_special)
		flags |= MOE_TEXT_PARSE_SPECIAL;
	input->tokens = moe_tokens_of_text(call->model, call->prefix, DatumGetTextPP(datum), flags,
									   err);
}

static Datum
array_of_embedding(FunctionCallInfo fcinfo, const MoeInput *input, const MoeSeq *seq, bool *isnull)
{
	int			n = 0;
	const float *v = moe_run_embedding(seq, &n);
	Datum	   *elements;
	ArrayType  *array;

	if (v == NULL)
		elog(ERROR, "the engine returned no embedding");
	elements = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
		elements[i] = Float4GetDatum(v[i]);
	array = construct_array(elements, n, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT);
	pfree(elements);
	*isnull = false;
	return PointerGetDatum(array);
}

/*
 * The 64 hexadecimal digits of a digest, in lower case
 */
static char *
parse_digest(const text *digest)
{
	char	   *given = text_to_cstring(digest);
	char	   *digits = given;

	if (pg_strncasecmp(digits, "sha256:", 7) == 0)
		digits += 7;
	if (strlen(digits) != MOE_DIGEST_LEN ||
		strspn(digits, "0123456789abcdefABCDEF") != MOE_DIGEST_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid model digest \"%s\"", given),
				 errhint("A digest has 64 hexadecimal digits, and may begin with \"sha256:\". SELECT name, digest FROM moe.models lists them.")));
	for (char *p = digits; *p; p++)
		*p = pg_ascii_tolower((unsigned char) *p);
	return digits;
}

static bool
setup_pinned(MoeCall *call, FunctionCallInfo fcinfo)
{
	char	   *digest;
	MoeModelRow *row;

	if (PG_ARGISNULL(1))
		return false;
	if (!moe_reproducible)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("moe.embed_pinned() works only while moe.reproducible is on"),
				 errhint("SET moe.reproducible = on.")));
	digest = parse_digest(PG_GETARG_TEXT_PP(1));
	row = moe_model_by_digest(digest);
	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no model with digest %s is registered", digest),
				 errhint("SELECT name, digest FROM moe.models lists the models you may use.")));

	memset(call, 0, sizeof(MoeCall));
	call->task = MOE_TASK_EMBED;
	moe_options_init(&call->options);
	call->model = moe_host_open(row, false);
	call->prefix = prefix_of_kind(call->model, moe_text_arg(fcinfo, 2));
	return true;
}

/*
 * An expression that casts the real[] of its context's case value to a type
 */
static ExprState *
make_cast(Oid target, MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	CaseTestExpr *source = makeNode(CaseTestExpr);
	Node	   *cast;
	ExprState  *state;

	source->typeId = FLOAT4ARRAYOID;
	source->typeMod = -1;
	source->collation = InvalidOid;
	cast = coerce_to_target_type(NULL, (Node *) source, FLOAT4ARRAYOID, target, -1,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (cast == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_COERCE),
				 errmsg("cannot cast type real[] to %s", format_type_be(target)),
				 errhint("The second argument's type is that of the result, for example NULL::vector.")));
	state = ExecInitExpr(expression_planner((Expr *) cast), NULL);
	MemoryContextSwitchTo(caller);
	return state;
}

/*
 * The cast to the type that a call returns, which its first use makes
 */
static ExprState *
cast_of_call(FmgrInfo *flinfo)
{
	if (flinfo->fn_extra == NULL)
	{
		Oid			target = get_fn_expr_rettype(flinfo);

		if (!OidIsValid(target))
			elog(ERROR, "could not determine the result type");
		flinfo->fn_extra = make_cast(target, flinfo->fn_mcxt);
	}
	return flinfo->fn_extra;
}

static bool
setup_as(MoeCall *call, FunctionCallInfo fcinfo)
{
	(void) cast_of_call(fcinfo->flinfo);
	read_arguments(call, fcinfo, 2);
	return true;
}

static Datum
cast_embedding(FunctionCallInfo fcinfo, const MoeInput *input, const MoeSeq *seq, bool *isnull)
{
	ExprState  *cast = cast_of_call(fcinfo->flinfo);
	ExprContext *context = CreateStandaloneExprContext();
	Datum		value;

	context->caseValue_datum = array_of_embedding(fcinfo, input, seq, &context->caseValue_isNull);
	value = ExecEvalExpr(cast, context, isnull);
	FreeExprContext(context, true);
	return value;
}

const MoeFunction moe_embed_functions[] = {
	{"pg_moe_embed", MOE_PROMPT_TEXT, setup, read_input, array_of_embedding},
	{"pg_moe_embed_tokens", MOE_PROMPT_TOKENS, setup, read_input, array_of_embedding},
	{"pg_moe_embed_pinned", MOE_PROMPT_TEXT, setup_pinned, read_input, array_of_embedding},
	{"pg_moe_embed_as", MOE_PROMPT_TEXT, setup_as, read_input, cast_embedding},
	{NULL}
};

/*
 * moe.embed(text, model, kind, options) returns real[]
 */
Datum
pg_moe_embed(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_embed_functions[0], fcinfo);
}

/*
 * moe.embed(tokens int[], model, kind, options) returns real[]
 */
Datum
pg_moe_embed_tokens(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_embed_functions[1], fcinfo);
}

/*
 * moe.embed(texts text[], ...) returns table (ordinality, result)
 */
Datum
pg_moe_embed_batch(PG_FUNCTION_ARGS)
{
	return moe_call_for_array(&moe_embed_functions[0], fcinfo);
}

/*
 * moe.embed_pinned(text, digest, kind) returns real[]
 */
Datum
pg_moe_embed_pinned(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_embed_functions[2], fcinfo);
}

/*
 * moe.embed_as(text, anyelement, model, kind, options) returns anyelement
 *
 * Only the type of the second argument counts.
 */
Datum
pg_moe_embed_as(PG_FUNCTION_ARGS)
{
	(void) cast_of_call(fcinfo->flinfo);
	return moe_call_function(&moe_embed_functions[3], fcinfo);
}
