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
#include "funcapi.h"
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

static void
read_embed_options(MoeOptions *options, Jsonb *json)
{
	moe_options_init(options);
	moe_options_read(options, json, MOE_SCOPE_EMBED);
}

static MoeTokens
tokens_of_text(const MoeOpenModel *model, const text *t, const text *kind,
			   const MoeOptions *options)
{
	unsigned	flags = 0;

	if (options->add_special)
		flags |= MOE_TEXT_ADD_SPECIAL;
	if (options->parse_special)
		flags |= MOE_TEXT_PARSE_SPECIAL;
	return moe_tokens_of_text(model, prefix_of_kind(model, kind), t, flags);
}

static MoeSeq *
add_tokens(MoeRun *run, MoeTokens tokens, bool bulk)
{
	moe_request request = {0};

	request.task = MOE_TASK_EMBED;
	request.prompt = tokens.ids;
	request.n_prompt = tokens.n;
	request.bulk = bulk;
	return moe_run_add(run, &request);
}

static Datum
array_of_embedding(const MoeSeq *seq)
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
	return PointerGetDatum(array);
}

static Datum
embed_tokens(MoeOpenModel *model, MoeTokens tokens)
{
	MoeRun	   *run = moe_run_begin(model);
	MoeSeq	   *seq = add_tokens(run, tokens, false);
	Datum		result;

	moe_run_finish(run);
	result = array_of_embedding(seq);
	moe_run_end(run);
	return result;
}

/*
 * moe.embed(text, model, kind, options) returns real[]
 */
Datum
pg_moe_embed(PG_FUNCTION_ARGS)
{
	MoeOptions	options;
	MoeOpenModel *model;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	read_embed_options(&options, PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3));
	model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 1)), false);
	return embed_tokens(model, tokens_of_text(model, PG_GETARG_TEXT_PP(0),
											  moe_text_arg(fcinfo, 2), &options));
}

/*
 * moe.embed(tokens int[], model, kind, options) returns real[]
 *
 * The tokens are taken as they are, without prefix or special tokens.
 */
Datum
pg_moe_embed_tokens(PG_FUNCTION_ARGS)
{
	MoeOptions	options;
	MoeOpenModel *model;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	read_embed_options(&options, PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3));
	model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 1)), false);
	(void) prefix_of_kind(model, moe_text_arg(fcinfo, 2));
	return embed_tokens(model, moe_tokens_of_array(PG_GETARG_ARRAYTYPE_P(0)));
}

/*
 * moe.embed(texts text[], ...) returns table (ordinality, result)
 *
 * All texts run together.  A NULL text gives a NULL result.
 */
Datum
pg_moe_embed_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *kind = moe_text_arg(fcinfo, 2);
	MoeOptions	options;
	MoeOpenModel *model;
	MoeRun	   *run;
	MoeSeq	  **seqs;
	Datum	   *texts;
	bool	   *nulls;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &texts, &nulls, &n);
	read_embed_options(&options, PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3));
	model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 1)), false);
	run = moe_run_begin(model);
	seqs = palloc0(sizeof(MoeSeq *) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		MoeTokens	tokens;

		if (nulls[i])
			continue;
		tokens = tokens_of_text(model, DatumGetTextPP(texts[i]), kind, &options);
		seqs[i] = add_tokens(run, tokens, n > 1);
		pfree(tokens.ids);
	}
	moe_run_finish(run);

	for (int i = 0; i < n; i++)
	{
		Datum		values[2];
		bool		isnull[2] = {false, seqs[i] == NULL};

		values[0] = Int64GetDatum(i + 1);
		values[1] = seqs[i] ? array_of_embedding(seqs[i]) : (Datum) 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
		if (seqs[i])
			pfree(DatumGetPointer(values[1]));
	}
	moe_run_end(run);
	return (Datum) 0;
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

/*
 * moe.embed_pinned(text, digest, kind) returns real[]
 */
Datum
pg_moe_embed_pinned(PG_FUNCTION_ARGS)
{
	char	   *digest;
	MoeModelRow *row;
	MoeOptions	options;
	MoeOpenModel *model;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	if (!moe_reproducible)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("moe.embed_pinned() works only while moe.reproducible is on")));
	digest = parse_digest(PG_GETARG_TEXT_PP(1));
	row = moe_model_by_digest(digest);
	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no model with digest %s is registered", digest),
				 errhint("SELECT name, digest FROM moe.models lists the models you may use.")));
	moe_options_init(&options);
	model = moe_host_open(row, false);
	return embed_tokens(model, tokens_of_text(model, PG_GETARG_TEXT_PP(0),
											  moe_text_arg(fcinfo, 2), &options));
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
 * moe.embed_as(text, anyelement, model, kind, options) returns anyelement
 *
 * Only the type of the second argument counts.
 */
Datum
pg_moe_embed_as(PG_FUNCTION_ARGS)
{
	Oid			target = get_fn_expr_rettype(fcinfo->flinfo);
	MoeOptions	options;
	MoeOpenModel *model;
	ExprState  *cast = fcinfo->flinfo->fn_extra;
	ExprContext *context;
	Datum		result;
	bool		isnull;

	if (!OidIsValid(target))
		elog(ERROR, "could not determine the result type");
	if (cast == NULL)
		fcinfo->flinfo->fn_extra = cast = make_cast(target, fcinfo->flinfo->fn_mcxt);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();

	read_embed_options(&options, PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4));
	model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 2)), false);

	context = CreateStandaloneExprContext();
	context->caseValue_datum = embed_tokens(model,
											tokens_of_text(model, PG_GETARG_TEXT_PP(0),
														   moe_text_arg(fcinfo, 3), &options));
	context->caseValue_isNull = false;
	result = ExecEvalExpr(cast, context, &isnull);
	FreeExprContext(context, true);
	if (isnull)
		PG_RETURN_NULL();
	return result;
}
