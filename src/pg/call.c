/*-------------------------------------------------------------------------
 *
 * call.c
 *	  Functions that make one value of one input: embed, generate, chat.
 *
 * Each is described by a MoeFunction.  What runs it is the same for all: here
 * the plain call, which is a run of one sequence, and the forms that take an
 * array; in batch_scan.c the calls of many rows.
 *
 * The functions that generate text have the arguments (prompt, model,
 * max_tokens, temperature, seed, stop, options).  NULL for any but the prompt
 * means the default.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "funcapi.h"

static const MoeFunction *const function_lists[] = {
	moe_embed_functions, moe_generate_functions, moe_chat_functions
};

/*
 * The function that the library exports by a name, or NULL
 */
const MoeFunction *
moe_function_by_symbol(const char *symbol)
{
	for (int i = 0; i < lengthof(function_lists); i++)
		for (const MoeFunction *f = function_lists[i]; f->symbol != NULL; f++)
			if (strcmp(f->symbol, symbol) == 0)
				return f;
	return NULL;
}

/*
 * A text argument, or NULL
 */
text *
moe_text_arg(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : PG_GETARG_TEXT_PP(i);
}

/*
 * Read the arguments after the prompt of a function that generates text, and open
 * the model
 *
 * The model must be held by a run before another one is opened.
 */
void
moe_call_begin(MoeCall *call, FunctionCallInfo fcinfo, int scope)
{
	MoeOptions *options = &call->options;

	memset(call, 0, sizeof(MoeCall));
	call->task = MOE_TASK_GENERATE;
	moe_options_init(options);
	if (!PG_ARGISNULL(2))
		options->max_tokens = PG_GETARG_INT32(2);
	if (!PG_ARGISNULL(3))
		options->temperature = PG_GETARG_FLOAT8(3);
	if (!PG_ARGISNULL(4))
	{
		options->has_seed = true;
		options->seed = PG_GETARG_INT64(4);
	}
	if (!PG_ARGISNULL(5))
		moe_options_set_stop(options, PG_GETARG_ARRAYTYPE_P(5));
	moe_options_read(options, PG_ARGISNULL(6) ? NULL : PG_GETARG_JSONB_P(6), scope);
	moe_options_check(options);
	call->null_on_error = moe_options_null_on_error(options);

	call->model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 1)), false);
}

/*
 * Make tokens of an input
 *
 * What is wrong with it is raised or, with err, told there; there are no tokens then.
 */
void
moe_call_read(const MoeFunction *function, const MoeCall *call, Datum datum, MoeInput *input,
			  moe_error *err)
{
	memset(input, 0, sizeof(MoeInput));
	input->null_on_error = call->null_on_error;
	function->read(call, function->type, datum, input, err);
}

/*
 * Do equal inputs give equal values?
 */
bool
moe_call_is_repeatable(const MoeCall *call)
{
	return call->task == MOE_TASK_EMBED || call->options.temperature == 0 ||
		call->options.has_seed;
}

/*
 * What the engine is asked; all bytes of the request are set
 */
void
moe_call_request(const MoeCall *call, MoeTokens tokens, moe_request *request)
{
	if (call->task == MOE_TASK_GENERATE)
		moe_options_request(&call->options, request);
	else
	{
		memset(request, 0, sizeof(moe_request));
		request->task = call->task;
	}
	request->prompt = tokens.ids;
	request->n_prompt = tokens.n;
	request->bulk = call->bulk;
}

/*
 * Read an input and queue it; NULL if it is wrong and that gives NULL
 */
static MoeSeq *
read_and_add(const MoeFunction *function, const MoeCall *call, MoeRun *run, Datum datum,
			 MoeInput *input)
{
	moe_error	err = {0};
	moe_request request;
	MoeSeq	   *seq;

	moe_call_read(function, call, datum, input, call->null_on_error ? &err : NULL);
	if (input->tokens.ids == NULL)
		return NULL;
	moe_call_request(call, input->tokens, &request);
	seq = call->null_on_error
		? moe_run_try_add(run, &request, &err) : moe_run_add(run, &request);
	pfree(input->tokens.ids);
	return seq;
}

/*
 * Call a function for one input
 */
Datum
moe_call_function(const MoeFunction *function, FunctionCallInfo fcinfo)
{
	MoeCall		call;
	MoeInput	input;
	MoeRun	   *run;
	MoeSeq	   *seq;
	Datum		value = (Datum) 0;
	bool		isnull = true;

	if (PG_ARGISNULL(0) || !function->setup(&call, fcinfo))
		PG_RETURN_NULL();

	run = moe_run_begin(call.model);
	seq = read_and_add(function, &call, run, PG_GETARG_DATUM(0), &input);
	moe_run_finish(run);
	if (seq != NULL && moe_run_error(seq) == NULL)
		value = function->result(fcinfo, &input, seq, &isnull);
	moe_run_end(run);
	if (isnull)
		PG_RETURN_NULL();
	return value;
}

/*
 * Call a function for all texts of an array, as one run: returns table
 * (ordinality, result)
 *
 * A NULL text gives a NULL result.
 */
Datum
moe_call_for_array(const MoeFunction *function, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MoeCall		call;
	MoeRun	   *run;
	MoeSeq	  **seqs;
	MoeInput   *inputs;
	Datum	   *texts;
	bool	   *nulls;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &texts, &nulls, &n);
	if (!function->setup(&call, fcinfo))
		elog(ERROR, "a function on arrays does without its arguments");
	call.bulk = n > 1;
	run = moe_run_begin(call.model);
	seqs = palloc0(sizeof(MoeSeq *) * (n + 1));
	inputs = palloc(sizeof(MoeInput) * (n + 1));
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			seqs[i] = read_and_add(function, &call, run, texts[i], &inputs[i]);
	moe_run_finish(run);

	for (int i = 0; i < n; i++)
	{
		Datum		values[2] = {Int64GetDatum(i + 1), (Datum) 0};
		bool		isnull[2] = {false, true};

		if (seqs[i] != NULL && moe_run_error(seqs[i]) == NULL)
			values[1] = function->result(fcinfo, &inputs[i], seqs[i], &isnull[1]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
		if (!isnull[1])
			pfree(DatumGetPointer(values[1]));
	}
	moe_run_end(run);
	return (Datum) 0;
}
