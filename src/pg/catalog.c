/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  The table of registered models, moe.model_catalog.
 *
 * The table is read and written directly, as the server does with its own
 * catalogs: a lookup is one index probe, needs no grant on the table, and is
 * blind to search_path, triggers and rules.  Who may write is checked by the
 * callers (models.c).  A lookup sees the newest committed row, so a model that
 * another session dropped is gone for the next call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog.h"
#include "compat.h"
#include "grants.h"
#include "guc.h"
#include "suggest.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

/* Columns of moe.model_catalog, in the order of the install script */
enum
{
	COL_NAME = 1,
	COL_PATH,
	COL_DIGEST,
	COL_FILE_DIGEST,
	COL_WEIGHTS_KEY,
	COL_STAMP,
	COL_FAMILY,
	COL_WEIGHT_TYPE,
	COL_N_PARAMS,
	COL_N_PARAMS_ACTIVE,
	COL_N_CTX,
	COL_OPTIONS,
	COL_BUILTIN,
	N_COLUMNS = COL_BUILTIN
};

/* What paths of built-in models begin with: the server's share directory */
#define SHAREDIR_TOKEN "$sharedir/"

static Oid	catalog_relid = InvalidOid;

/*
 * Open a table of the extension
 */
Relation
moe_catalog_open(const char *name, LOCKMODE lockmode)
{
	Oid			schema = get_namespace_oid("moe", true);
	Oid			table = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"moe.%s\" does not exist", name),
				 errhint("Run CREATE EXTENSION pg_moe in this database.")));
	return table_open(table, lockmode);
}

/*
 * Begin a scan of all rows of a table of the extension
 */
SysScanDesc
moe_catalog_scan(Relation rel)
{
	return systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
}

/*
 * Begin a scan of those whose first column, which the primary key begins with, equals
 * a value
 */
SysScanDesc
moe_catalog_scan_key(Relation rel, RegProcedure equals, Datum value)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, equals, value);
	return systable_beginscan(rel, moe_primary_key_index(rel), true, NULL, 1, &key);
}

static Relation
open_catalog(LOCKMODE lockmode)
{
	Relation	rel = moe_catalog_open("model_catalog", lockmode);

	catalog_relid = RelationGetRelid(rel);
	return rel;
}

/*
 * The table's oid when it was last used, or InvalidOid
 */
Oid
moe_catalog_relid(void)
{
	return catalog_relid;
}

static char *
text_column(HeapTuple tuple, int column, TupleDesc desc)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, desc, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static MoeModelRow *
row_of_tuple(HeapTuple tuple, TupleDesc desc)
{
	MoeModelRow *row = palloc0(sizeof(MoeModelRow));
	bool		isnull;
	Datum		value;

	row->name = text_column(tuple, COL_NAME, desc);
	row->path = text_column(tuple, COL_PATH, desc);
	row->digest = text_column(tuple, COL_DIGEST, desc);
	row->file_digest = text_column(tuple, COL_FILE_DIGEST, desc);
	row->weights_key = text_column(tuple, COL_WEIGHTS_KEY, desc);
	row->stamp = text_column(tuple, COL_STAMP, desc);
	row->family = text_column(tuple, COL_FAMILY, desc);
	row->weight_type = text_column(tuple, COL_WEIGHT_TYPE, desc);
	row->n_params = DatumGetInt64(heap_getattr(tuple, COL_N_PARAMS, desc, &isnull));
	row->n_params_active = DatumGetInt64(heap_getattr(tuple, COL_N_PARAMS_ACTIVE, desc, &isnull));
	row->n_ctx = DatumGetInt32(heap_getattr(tuple, COL_N_CTX, desc, &isnull));
	value = heap_getattr(tuple, COL_OPTIONS, desc, &isnull);
	if (!isnull)
		row->options = DatumGetJsonbPCopy(value);
	row->builtin = DatumGetBool(heap_getattr(tuple, COL_BUILTIN, desc, &isnull));
	return row;
}

/*
 * The row of a model, or NULL
 */
MoeModelRow *
moe_model_lookup(const char *name)
{
	Relation	rel = open_catalog(AccessShareLock);
	SysScanDesc scan = moe_catalog_scan_key(rel, F_TEXTEQ, CStringGetTextDatum(name));
	HeapTuple	tuple = systable_getnext(scan);
	MoeModelRow *row = NULL;

	if (HeapTupleIsValid(tuple))
		row = row_of_tuple(tuple, RelationGetDescr(rel));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return row;
}

/*
 * The row of a model that a caller named and may use; NULL means
 * moe.default_model
 */
MoeModelRow *
moe_model_require(const text *name)
{
	char	   *cname = name ? text_to_cstring(name) : moe_default_model;
	MoeModelRow *row;

	if (cname == NULL || cname[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no model is named"),
				 errhint("Name one in the call, or set moe.default_model.")));

	row = moe_model_lookup(cname);
	if (row == NULL)
		moe_throw_no_model(cname);
	moe_check_grant(row);
	return row;
}

/*
 * The row of the model with a digest (64 lower-case hexadecimal digits), or
 * NULL.  Models registered twice give the same results, so any of them does that
 * the caller may use.
 */
MoeModelRow *
moe_model_by_digest(const char *digest)
{
	Relation	rel = open_catalog(AccessShareLock);
	SysScanDesc scan = moe_catalog_scan(rel);
	MoeModelRow *row = NULL;
	HeapTuple	tuple;

	while ((row == NULL || !moe_may_use(row)) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		char	   *candidate = text_column(tuple, COL_DIGEST, RelationGetDescr(rel));

		if (strcmp(candidate, digest) == 0)
			row = row_of_tuple(tuple, RelationGetDescr(rel));
		pfree(candidate);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (row != NULL)
		moe_check_grant(row);
	return row;
}

static bool
has_weights(const char *weights_key, bool usable)
{
	Relation	rel = open_catalog(AccessShareLock);
	SysScanDesc scan = moe_catalog_scan(rel);
	bool		found = false;
	HeapTuple	tuple;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		MoeModelRow *row = row_of_tuple(tuple, RelationGetDescr(rel));

		found = strcmp(row->weights_key, weights_key) == 0 && (!usable || moe_may_use(row));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * Does any model of this database have these packed weights?
 */
bool
moe_weights_in_use(const char *weights_key)
{
	return has_weights(weights_key, false);
}

/*
 * Does one that the current user may use?
 */
bool
moe_may_use_weights(const char *weights_key)
{
	return has_weights(weights_key, true);
}

/*
 * Keep others from adding and removing models until the transaction ends
 */
void
moe_catalog_lock(void)
{
	table_close(open_catalog(ShareRowExclusiveLock), NoLock);
}

/*
 * Add a row; a model of that name must not exist
 */
void
moe_model_insert(const MoeModelRow *row)
{
	Relation	rel = open_catalog(RowExclusiveLock);
	Datum		values[N_COLUMNS] = {0};
	bool		nulls[N_COLUMNS] = {0};
	HeapTuple	tuple;

	values[COL_NAME - 1] = CStringGetTextDatum(row->name);
	values[COL_PATH - 1] = CStringGetTextDatum(row->path);
	values[COL_DIGEST - 1] = CStringGetTextDatum(row->digest);
	values[COL_FILE_DIGEST - 1] = CStringGetTextDatum(row->file_digest);
	values[COL_WEIGHTS_KEY - 1] = CStringGetTextDatum(row->weights_key);
	values[COL_STAMP - 1] = CStringGetTextDatum(row->stamp);
	values[COL_FAMILY - 1] = CStringGetTextDatum(row->family);
	values[COL_WEIGHT_TYPE - 1] = CStringGetTextDatum(row->weight_type);
	values[COL_N_PARAMS - 1] = Int64GetDatum(row->n_params);
	values[COL_N_PARAMS_ACTIVE - 1] = Int64GetDatum(row->n_params_active);
	values[COL_N_CTX - 1] = Int32GetDatum(row->n_ctx);
	if (row->options)
		values[COL_OPTIONS - 1] = JsonbPGetDatum(row->options);
	else
		nulls[COL_OPTIONS - 1] = true;
	values[COL_BUILTIN - 1] = BoolGetDatum(row->builtin);

	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/*
 * Delete a row, which must exist
 */
void
moe_model_remove(const char *name)
{
	Relation	rel = open_catalog(RowExclusiveLock);
	SysScanDesc scan = moe_catalog_scan_key(rel, F_TEXTEQ, CStringGetTextDatum(name));
	HeapTuple	tuple = systable_getnext(scan);

	if (!HeapTupleIsValid(tuple))
		moe_throw_no_model(name);
	CatalogTupleDelete(rel, &tuple->t_self);
	CacheInvalidateRelcache(rel);	/* tells the sessions that have it open */
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/*
 * Where the model's files are, palloc'ed
 *
 * The files of built-in models were installed with the extension, so their
 * rows name the share directory by a token: it may differ after an upgrade or
 * on a standby.
 */
char *
moe_model_path(const MoeModelRow *row)
{
	char		sharedir[MAXPGPATH];

	if (!row->builtin || strncmp(row->path, SHAREDIR_TOKEN, strlen(SHAREDIR_TOKEN)) != 0)
		return pstrdup(row->path);
	get_share_path(my_exec_path, sharedir);
	return psprintf("%s/%s", sharedir, row->path + strlen(SHAREDIR_TOKEN));
}

/*
 * Report that a model does not exist, with the nearest name that may be used
 */
void
moe_throw_no_model(const char *name)
{
	Relation	rel = open_catalog(AccessShareLock);
	SysScanDesc scan = moe_catalog_scan(rel);
	MoeSuggestion suggestion;
	HeapTuple	tuple;

	moe_suggest_begin(&suggestion, name);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		MoeModelRow *row = row_of_tuple(tuple, RelationGetDescr(rel));

		if (moe_may_use(row))
			moe_suggest_candidate(&suggestion, row->name);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("model \"%s\" does not exist", name),
			 suggestion.best
			 ? errhint("Did you mean \"%s\"? SELECT name FROM moe.models lists the models you may use.",
					   suggestion.best)
			 : errhint("SELECT name FROM moe.models lists the models you may use.")));
	pg_unreachable();
}
