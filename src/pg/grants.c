/*-------------------------------------------------------------------------
 *
 * grants.c
 *	  Who may use which model: moe.grant_model(), moe.revoke_model().
 *
 * A model that was registered may be used by superusers, by roles with a grant, and
 * by those who have the privileges of such a role; a grant to "public" is for all.
 * Whoever registers a model gets a grant on it.  The model that comes with the
 * extension needs none.  Only who may register models may grant them.
 *
 * Grants are rows of moe.grant_catalog, read and written as catalog.c does.  They
 * hold the role's oid, so that they follow a role that is renamed, and its name in
 * a dump (the column is a regrole).  Those of a role that was dropped mean nothing:
 * they are not dumped, and the next change of grants deletes them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "call.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "compat.h"
#include "grants.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/syscache.h"

MOE_FUNCTION(pg_moe_grant_model);
MOE_FUNCTION(pg_moe_revoke_model);
MOE_FUNCTION(pg_moe_may_use);

/* Columns of moe.grant_catalog */
enum
{
	COL_MODEL = 1,
	COL_ROLE,
	N_COLUMNS = COL_ROLE
};

#define TABLE "grant_catalog"

/*
 * The role of a grant; InvalidOid is everybody
 */
static Oid
role_of_tuple(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;

	return DatumGetObjectId(heap_getattr(tuple, COL_ROLE, desc, &isnull));
}

static bool
has_grant(const char *model)
{
	Relation	rel = moe_catalog_open(TABLE, AccessShareLock);
	SysScanDesc scan = moe_catalog_scan_key(rel, F_TEXTEQ, CStringGetTextDatum(model));
	bool		found = false;
	HeapTuple	tuple;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			role = role_of_tuple(tuple, RelationGetDescr(rel));

		found = !OidIsValid(role) || has_privs_of_role(GetUserId(), role);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * May the current user use a model?
 */
bool
moe_may_use(const MoeModelRow *row)
{
	return row->builtin || superuser() || has_grant(row->name);
}

/*
 * The same by name; false if there is no such model
 */
bool
moe_may_use_name(const char *name)
{
	MoeModelRow *row = moe_model_lookup(name);

	return row != NULL && moe_may_use(row);
}

/*
 * Raise an error if the current user may not use a model
 */
void
moe_check_grant(const MoeModelRow *row)
{
	if (!moe_may_use(row))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for model \"%s\"", row->name),
				 errhint("Whoever may register models can allow it: SELECT moe.grant_model('%s', '%s').",
						 row->name, GetUserNameFromId(GetUserId(), false))));
}

/*
 * Raise an error if the current user may not register models
 */
void
moe_check_registrar(const char *function)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", function),
				 errhint("Only superusers and members of pg_read_server_files may register, drop and grant models.")));
}

/*
 * Delete a model's grants to a role, or all of a role's that is gone.  Says
 * whether there was one of the former.
 */
static bool
remove_grant(Relation rel, const char *model, Oid role)
{
	SysScanDesc scan = moe_catalog_scan(rel);
	bool		found = false;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		name = heap_getattr(tuple, COL_MODEL, RelationGetDescr(rel), &isnull);
		Oid			grantee = role_of_tuple(tuple, RelationGetDescr(rel));
		bool		is_it = grantee == role && strcmp(TextDatumGetCString(name), model) == 0;

		if (is_it || (OidIsValid(grantee) && !SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(grantee))))
			CatalogTupleDelete(rel, &tuple->t_self);
		found = found || is_it;
	}
	systable_endscan(scan);
	return found;
}

static void
insert_grant(Relation rel, const char *model, Oid role)
{
	Datum		values[N_COLUMNS] = {CStringGetTextDatum(model), ObjectIdGetDatum(role)};
	bool		nulls[N_COLUMNS] = {0};
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);

	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
}

/*
 * Grant or revoke.  Says whether the grant was there.
 */
static bool
set_grant(const char *model, Oid role, bool grant)
{
	Relation	rel = moe_catalog_open(TABLE, ShareRowExclusiveLock);
	bool		found = remove_grant(rel, model, role);

	if (grant)
		insert_grant(rel, model, role);
	table_close(rel, NoLock);
	CommandCounterIncrement();
	return found;
}

/*
 * The current user has registered a model, and is to be able to use it
 */
void
moe_grant_to_registrar(const char *model)
{
	if (!superuser())
		(void) set_grant(model, GetUserId(), true);
}

/*
 * Delete the grants on a model that is dropped, or new
 */
void
moe_grants_remove(const char *model)
{
	Relation	rel = moe_catalog_open(TABLE, ShareRowExclusiveLock);
	SysScanDesc scan = moe_catalog_scan_key(rel, F_TEXTEQ, CStringGetTextDatum(model));
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/*
 * The role of a name
 */
Oid
moe_role_oid(const char *name)
{
	Oid			role = get_role_oid(name, true);

	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist", name),
				 errhint("SELECT rolname FROM pg_roles lists the roles; upper and lower case differ.")));
	return role;
}

/*
 * What grant_model() and revoke_model() share
 */
static bool
change_grant(FunctionCallInfo fcinfo, const char *function, bool grant)
{
	text	   *model = moe_text_arg(fcinfo, 0);
	text	   *role = moe_text_arg(fcinfo, 1);
	MoeModelRow *row;
	char	   *name;

	PreventCommandIfReadOnly(grant ? "moe.grant_model()" : "moe.revoke_model()");
	moe_check_registrar(function);
	if (model == NULL || role == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("model and role must not be null"),
				 errhint("For example moe.%s('mine', 'analysts'); 'public' stands for all roles.", function)));
	moe_catalog_lock();			/* nobody may drop the model meanwhile */
	row = moe_model_lookup(text_to_cstring(model));
	if (row == NULL)
		moe_throw_no_model(text_to_cstring(model));
	if (row->builtin)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("model \"%s\" comes with the extension and may be used by all", row->name),
				 errhint("REVOKE USAGE ON SCHEMA moe FROM PUBLIC keeps roles from all models.")));
	name = text_to_cstring(role);
	return set_grant(row->name, strcmp(name, "public") == 0 ? InvalidOid : moe_role_oid(name), grant);
}

/*
 * moe.grant_model(model text, role text) returns void
 */
Datum
pg_moe_grant_model(PG_FUNCTION_ARGS)
{
	(void) change_grant(fcinfo, "grant_model", true);
	PG_RETURN_VOID();
}

/*
 * moe.revoke_model(model text, role text) returns void
 */
Datum
pg_moe_revoke_model(PG_FUNCTION_ARGS)
{
	if (!change_grant(fcinfo, "revoke_model", false))
		ereport(NOTICE,
				(errmsg("role \"%s\" had no grant on model \"%s\"",
						text_to_cstring(PG_GETARG_TEXT_PP(1)), text_to_cstring(PG_GETARG_TEXT_PP(0)))));
	PG_RETURN_VOID();
}

/*
 * moe.may_use(model text) returns bool
 */
Datum
pg_moe_may_use(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(moe_may_use_name(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
