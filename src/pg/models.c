/*-------------------------------------------------------------------------
 *
 * models.c
 *	  Registering models: moe.load_model(), moe.drop_model(), moe.model_info().
 *
 * A registration says that a name stands for files with a certain digest.  It is
 * a row like any other: it comes with the transaction's commit and goes with its
 * rollback.  Nothing is loaded but what describes the model; its weights
 * come when it is first used.  Only those who may read any file of the server may
 * register one, and the parser of model files takes them as hostile input all the
 * same.  Who may use a model is a matter of grants (grants.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "call.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "compat.h"
#include "encoding.h"
#include "error.h"
#include "grants.h"
#include "lib/stringinfo.h"
#include "stats.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "weight_store.h"

MOE_FUNCTION(pg_moe_load_model);
MOE_FUNCTION(pg_moe_drop_model);
MOE_FUNCTION(pg_moe_model_info);
MOE_FUNCTION(pg_moe_pretty_count);

#define MAX_MODEL_NAME (MOE_NAME_SIZE - 1)

/*
 * Names go unquoted into settings and messages, so they are plain
 */
static void
check_name(const char *name)
{
	static const char *const allowed =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.:";
	size_t		len = strlen(name);

	if (len < 1 || len > MAX_MODEL_NAME || strspn(name, allowed) != len ||
		strchr("_-.:", name[0]) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid model name \"%s\"", name),
				 errhint("A name has 1 to %d letters, digits, and characters of \"_-.:\", and begins with a letter or digit.",
						 MAX_MODEL_NAME)));
}

static const char *const count_units[] = {"", " k", " M", " B", " T"};
static const char *const byte_units[] = {" bytes", " kB", " MB", " GB", " TB"};

/*
 * A number with its unit in about two digits: 12 M, 7.6 B
 */
static char *
pretty(double n, const char *const *units)
{
	int			unit = 0;

	while (unit < lengthof(count_units) - 1 && n >= 999.5)
	{
		n /= 1000;
		unit++;
	}
	return psprintf(n >= 9.95 || fabs(n - rint(n)) < 0.05 ? "%.0f%s" : "%.1f%s", n, units[unit]);
}

StaticAssertDecl(lengthof(count_units) == lengthof(byte_units), "units run in parallel");

/*
 * The digest by which embed_pinned() knows a model: that of the files if
 * the options leave results as they are, else one over files and options
 */
static char *
digest_with_options(const char *file_digest, const MoeOptions *options)
{
	static const char hexdigits[] = "0123456789abcdef";
	StringInfoData all;
	uint8		hash[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *ctx;
	char	   *digest;

	if (options->query_prefix == NULL && options->passage_prefix == NULL &&
		moe_options_kv_type(options) == MOE_KV_AUTO &&
		moe_options_quantize(options) == MOE_QUANTIZE_NONE)
		return pstrdup(file_digest);

	initStringInfo(&all);
	appendStringInfo(&all, "%s\n%d\n", file_digest, (int) moe_options_kv_type(options));
	escape_json(&all, options->query_prefix ? options->query_prefix : "");
	appendStringInfoChar(&all, '\n');
	escape_json(&all, options->passage_prefix ? options->passage_prefix : "");
	if (moe_options_quantize(options) != MOE_QUANTIZE_NONE)
		appendStringInfo(&all, "\n%s", options->quantize);

	ctx = pg_cryptohash_create(PG_SHA256);
	if (ctx == NULL || pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, (uint8 *) all.data, all.len) < 0 ||
		pg_cryptohash_final(ctx, hash, sizeof(hash)) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(ctx);

	digest = palloc(MOE_DIGEST_LEN + 1);
	for (int i = 0; i < PG_SHA256_DIGEST_LENGTH; i++)
	{
		digest[2 * i] = hexdigits[hash[i] >> 4];
		digest[2 * i + 1] = hexdigits[hash[i] & 15];
	}
	digest[MOE_DIGEST_LEN] = '\0';
	return digest;
}

/*
 * Tell in a line what was registered
 */
static void
notice_model(const MoeModelRow *row, const moe_model_info *info)
{
	StringInfoData memory;

	initStringInfo(&memory);
	if (info->weight_bytes > 0)
		appendStringInfo(&memory, "; weights %s", pretty(info->weight_bytes, byte_units));
	if (!info->is_encoder && info->kv_bytes_per_token > 0)
		appendStringInfo(&memory, "%s KV cache %s per token", memory.len > 0 ? "," : ";",
						 pretty(info->kv_bytes_per_token, byte_units));
	ereport(NOTICE,
			(errmsg("%s parameters, family %s, context %d, %s%s",
					pretty(row->n_params, count_units), row->family, row->n_ctx,
					info->is_encoder ? "embeddings only"
					: info->has_chat_template ? "chat template found" : "no chat template",
					memory.data)));
}

/*
 * Fill a row from the model's files
 */
static void
describe_files(MoeModelRow *row, const MoeOptions *options)
{
	char	   *doing = psprintf("could not load model \"%s\"", row->name);
	moe_model_options open_options = {0};
	const moe_model_info *info;
	moe_model  *model = NULL;
	moe_error	err = {0};
	char		stamp[MOE_STAMP_SIZE];
	char		digest[MOE_DIGEST_LEN + 1];

	/* First the stamp: a file that changes while it is read must not go unnoticed */
	if (moe_model_stamp(row->path, stamp, sizeof(stamp), &err) != MOE_OK)
		moe_throw(&err, doing);

	open_options.n_ctx = options->n_ctx;
	open_options.kv_type = moe_options_kv_type(options);
	open_options.quantize = moe_options_quantize(options);
	open_options.chat_template = options->chat_template;
	open_options.cancel = moe_cancel_by_interrupt;
	if (moe_model_describe(row->path, &open_options, &model, &err) != MOE_OK)
		moe_throw(&err, doing);
	PG_TRY();
	{
		info = moe_model_info_of(model);
		row->family = moe_server_cstring(info->family, strlen(info->family));
		row->weight_type = moe_server_cstring(info->type, strlen(info->type));
		row->n_params = info->n_params;
		row->n_params_active = info->n_params_active;
		row->n_ctx = info->n_ctx;

		if (moe_model_digest(row->path, &moe_cancel_by_interrupt, digest, &err) != MOE_OK)
			moe_throw(&err, doing);
		row->file_digest = pstrdup(digest);
		row->weights_key = open_options.quantize == MOE_QUANTIZE_NONE
			? pstrdup(digest) : psprintf("%s %s", digest, options->quantize);
		row->digest = digest_with_options(digest, options);
		row->stamp = pstrdup(stamp);
		notice_model(row, info);
	}
	PG_FINALLY();
	{
		moe_model_close(model);
	}
	PG_END_TRY();
}

/*
 * moe.load_model(name text, path text, options jsonb) returns void
 */
Datum
pg_moe_load_model(PG_FUNCTION_ARGS)
{
	MoeModelRow row = {0};
	MoeModelRow *existing;
	MoeOptions	options;

	PreventCommandIfReadOnly("moe.load_model()");
	moe_check_registrar("load_model");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name and path of a model must not be null"),
				 errhint("For example moe.load_model('mine', '/models/mine.gguf').")));
	row.name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	row.path = text_to_cstring(PG_GETARG_TEXT_PP(1));
	row.options = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	check_name(row.name);
	if (!is_absolute_path(row.path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("path of a model must be absolute: \"%s\"", row.path),
				 errhint("The server reads it, on its own machine.")));
	canonicalize_path(row.path);
	moe_options_init(&options);
	moe_options_read(&options, row.options, MOE_SCOPE_LOAD);
	(void) moe_options_kv_type(&options);
	(void) moe_options_quantize(&options);
	if (row.options)
		row.options = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete,
														 JsonbPGetDatum(row.options),
														 CStringGetTextDatum("replace")));

	/* One at a time, so that two of a name meet here and not in the index */
	moe_catalog_lock();
	existing = moe_model_lookup(row.name);
	if (existing && existing->builtin)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("model \"%s\" comes with the extension and can't be replaced", row.name),
				 errhint("Choose another name; moe.default_model says which model is used by default.")));
	if (existing && !options.replace)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("model \"%s\" already exists", row.name),
				 errhint("Choose another name, or add options => '{\"replace\": true}'.")));

	describe_files(&row, &options);
	if (existing)
	{
		moe_model_remove(row.name);
		moe_engine_forget_models();
	}
	else
		moe_grants_remove(row.name);
	moe_model_insert(&row);
	moe_grant_to_registrar(row.name);
	PG_RETURN_VOID();
}

/*
 * moe.drop_model(name text) returns void
 */
Datum
pg_moe_drop_model(PG_FUNCTION_ARGS)
{
	char	   *name;
	MoeModelRow *row;

	PreventCommandIfReadOnly("moe.drop_model()");
	moe_check_registrar("drop_model");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of a model must not be null"),
				 errhint("SELECT name FROM moe.models lists the models.")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	row = moe_model_lookup(name);
	if (row == NULL)
		moe_throw_no_model(name);
	if (row->builtin)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("model \"%s\" comes with the extension and can't be dropped", name),
				 errhint("moe.default_model says which model is used by default.")));

	moe_model_remove(name);
	moe_grants_remove(name);
	moe_host_close(name);
	moe_engine_forget_models();
	if (!moe_weights_in_use(row->weights_key))
		moe_store_drop(row->weights_key);
	PG_RETURN_VOID();
}

/*
 * moe.model_info(name text) returns jsonb
 */
Datum
pg_moe_model_info(PG_FUNCTION_ARGS)
{
	MoeModelRow *row = moe_model_require(moe_text_arg(fcinfo, 0));
	const moe_model_info *info = moe_model_info_of(moe_host_open(row, true)->model);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"name\": ");
	escape_json(&buf, row->name);
	appendStringInfoString(&buf, ", \"title\": ");
	escape_json(&buf, moe_server_cstring(info->name, strlen(info->name)));
	appendStringInfo(&buf, ", \"family\": \"%s\", \"type\": \"%s\", \"digest\": \"%s\"",
					 info->family, info->type, row->digest);
	appendStringInfo(&buf, ", \"parameters\": %lld, \"active_parameters\": %lld",
					 (long long) info->n_params, (long long) info->n_params_active);
	appendStringInfo(&buf, ", \"context\": %d, \"trained_context\": %d, \"layers\": %d"
					 ", \"embedding_length\": %d, \"vocabulary\": %d"
					 ", \"experts\": %d, \"experts_used\": %d",
					 info->n_ctx, info->n_ctx_train, info->n_layers, info->n_embd,
					 info->n_vocab, info->n_experts, info->n_experts_used);
	appendStringInfo(&buf, ", \"embeddings_only\": %s, \"chat_template\": %s",
					 info->is_encoder ? "true" : "false",
					 info->has_chat_template ? "true" : "false");
	appendStringInfo(&buf, ", \"weight_bytes\": %llu, \"kv_bytes_per_token\": %llu",
					 (unsigned long long) info->weight_bytes,
					 (unsigned long long) info->kv_bytes_per_token);
	appendStringInfoString(&buf, ", \"options\": ");
	if (row->options)
		(void) JsonbToCString(&buf, &row->options->root, VARSIZE(row->options));
	else
		appendStringInfoString(&buf, "{}");
	appendStringInfoChar(&buf, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

/*
 * moe.pretty_count(bigint) returns text, for the view moe.models
 */
Datum
pg_moe_pretty_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(pretty(PG_GETARG_INT64(0), count_units)));
}
