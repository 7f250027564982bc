/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  The table of registered models, moe.model_catalog.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_CATALOG_H
#define MOE_CATALOG_H

#include "access/genam.h"
#include "storage/lockdefs.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

#define MOE_DIGEST_LEN 64		/* hexadecimal digits of a SHA-256 */
#define MOE_STAMP_SIZE 128		/* bytes for a stamp of a model's files */

/* One row; strings in the database's encoding, palloc'ed */
typedef struct MoeModelRow
{
	char	   *name;
	char	   *path;			/* as stored; see moe_model_path() */
	char	   *digest;			/* of the files and what changes results */
	char	   *file_digest;	/* of the files */
	char	   *weights_key;	/* of the packed weights in the store */
	char	   *stamp;			/* of the files when they were registered */
	char	   *family;
	char	   *weight_type;
	int64		n_params;
	int64		n_params_active;
	int			n_ctx;
	Jsonb	   *options;		/* of load_model(), or NULL */
	bool		builtin;
} MoeModelRow;

extern Relation moe_catalog_open(const char *name, LOCKMODE lockmode);
extern SysScanDesc moe_catalog_scan(Relation rel);
extern SysScanDesc moe_catalog_scan_key(Relation rel, RegProcedure equals, Datum value);
extern MoeModelRow *moe_model_lookup(const char *name);
extern MoeModelRow *moe_model_require(const text *name);
extern MoeModelRow *moe_model_by_digest(const char *digest);
extern void moe_catalog_lock(void);
extern void moe_model_insert(const MoeModelRow *row);
extern void moe_model_remove(const char *name);
extern bool moe_weights_in_use(const char *weights_key);
extern bool moe_may_use_weights(const char *weights_key);
extern Oid	moe_catalog_relid(void);
extern char *moe_model_path(const MoeModelRow *row);
_Noreturn extern void moe_throw_no_model(const char *name);

#endif							/* MOE_CATALOG_H */
