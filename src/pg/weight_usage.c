/*-------------------------------------------------------------------------
 *
 * weight_usage.c
 *	  What of a model was used, remembered across restarts.
 *
 * A small file per model in pg_stat, beside the server's own statistics: a
 * header and the heat of each unit of the weights.  It is written when the last
 * session lets go of the model, and every few minutes when one of several does,
 * and read when the model's memory is next made.  Then what was hot is
 * loaded first by moe.prewarm(), and evicted last.
 *
 * The functions are called in the midst of engine work and at the end of a
 * process, so they raise no errors: a file that can't be written or read,
 * or is not what it should be, leaves the model without a memory of its past.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../engine/moe.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "weight_usage.h"

#define MAGIC 0x55454f4d		/* "MOEU" */
#define VERSION 1

typedef struct Header
{
	uint32		magic;
	uint32		version;
	uint32		n_units;
	uint32		checksum;		/* hash over the heats */
	char		key[128];
} Header;

static void
file_name(const char *key, char *path)
{
	snprintf(path, MAXPGPATH, "%s/pg_moe.%016llx", PGSTAT_STAT_PERMANENT_DIRECTORY,
			 (unsigned long long) hash_bytes_extended((const unsigned char *) key, strlen(key), 0));
}

static uint32
checksum(const uint16 *heat, int n)
{
	return hash_bytes((const unsigned char *) heat, n * (int) sizeof(uint16));
}

/*
 * Read or write all of a buffer
 */
static bool
transfer(int fd, void *data, Size len, bool writing)
{
	while (len > 0)
	{
		ssize_t		n = writing ? write(fd, data, len) : read(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data = (char *) data + n;
		len -= n;
	}
	return true;
}

/*
 * Tell a fresh arena what was used when the model last was in memory
 */
void
moe_usage_read(const char *key, void *arena)
{
	char		path[MAXPGPATH];
	moe_arena_stats stats;
	uint16	   *heat;
	Header		header;
	int			fd;

	file_name(key, path);
	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		return;
	moe_arena_stats_of(arena, &stats);
	heat = malloc(stats.n_units * sizeof(uint16));
	if (heat != NULL &&
		transfer(fd, &header, sizeof(header), false) &&
		header.magic == MAGIC && header.version == VERSION &&
		header.n_units == (uint32) stats.n_units &&
		strncmp(header.key, key, sizeof(header.key)) == 0 &&
		transfer(fd, heat, stats.n_units * sizeof(uint16), false) &&
		header.checksum == checksum(heat, stats.n_units))
		(void) moe_arena_remember(arena, heat, stats.n_units);
	free(heat);
	close(fd);
}

/*
 * Write down how much the units of an arena have been used
 */
void
moe_usage_write(const char *key, const void *arena)
{
	char		path[MAXPGPATH];
	char		temporary[MAXPGPATH + 16];
	moe_arena_stats stats;
	moe_arena_unit unit;
	uint16	   *heat;
	Header		header = {MAGIC, VERSION};
	bool		done;
	int			fd;

	moe_arena_stats_of(arena, &stats);
	if (stats.hits + stats.misses == 0)
		return;					/* nothing new */
	heat = malloc(stats.n_units * sizeof(uint16));
	if (heat == NULL)
		return;
	for (int i = 0; i < stats.n_units; i++)
		heat[i] = moe_arena_unit_of(arena, i, &unit) ? unit.heat : 0;
	header.n_units = stats.n_units;
	header.checksum = checksum(heat, stats.n_units);
	strlcpy(header.key, key, sizeof(header.key));

	file_name(key, path);
	snprintf(temporary, sizeof(temporary), "%s.%d", path, MyProcPid);
	fd = BasicOpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd >= 0)
	{
		done = transfer(fd, &header, sizeof(header), true) &&
			transfer(fd, heat, stats.n_units * sizeof(uint16), true);
		if (close(fd) != 0 || !done || rename(temporary, path) != 0)
			unlink(temporary);
	}
	free(heat);
}

/*
 * The model is dropped
 */
void
moe_usage_forget(const char *key)
{
	char		path[MAXPGPATH];

	file_name(key, path);
	unlink(path);
}
