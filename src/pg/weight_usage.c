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
 * The header also says which files the weights come from and how much of them
 * was in shared memory.  From that, autoprewarm.c restores what a restart took
 * away.  A model whose memory is given back keeps its file, as one of which
 * nothing was in memory.
 *
 * But for moe_usage_list(), the functions are called in the midst of engine work
 * and at the end of a process, so they raise no errors: a file that can't be
 * written or read, or is not what it should be, leaves the model without a memory
 * of its past.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/timestamp.h"
#include "weight_usage.h"

#define MAGIC 0x55454f4d		/* "MOEU" */
#define VERSION 2
#define FILE_PREFIX "pg_moe."
#define MAX_UNITS (1 << 24)

typedef struct Header
{
	uint32		magic;
	uint32		version;
	uint32		n_units;
	uint32		checksum;		/* hash over the header, this being 0, and the heats */
	MoeUsage	usage;			/* resident_bytes is 0 if there is nothing to restore */
} Header;

static void
file_name(const char *key, char *path)
{
	snprintf(path, MAXPGPATH, "%s/%s%016llx", PGSTAT_STAT_PERMANENT_DIRECTORY, FILE_PREFIX,
			 (unsigned long long) hash_bytes_extended((const unsigned char *) key, strlen(key), 0));
}

static uint32
checksum(const Header *header, const uint16 *heat)
{
	Header		copy;

	memcpy(&copy, header, sizeof(copy));	/* with its padding */
	copy.checksum = 0;
	return hash_combine(hash_bytes((const unsigned char *) &copy, sizeof(copy)),
						hash_bytes((const unsigned char *) heat,
								   (int) (header->n_units * sizeof(uint16))));
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
 * Read a file whole: the heats, malloc'ed, or NULL if there is no such file, or
 * it is not what it should be
 */
static uint16 *
read_file(const char *path, Header *header)
{
	uint16	   *heat = NULL;
	int			fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);

	if (fd < 0)
		return NULL;
	if (transfer(fd, header, sizeof(Header), false) &&
		header->magic == MAGIC && header->version == VERSION && header->n_units <= MAX_UNITS)
	{
		Size		len = header->n_units * sizeof(uint16);

		heat = malloc(len + 1);
		if (heat != NULL &&
			(!transfer(fd, heat, len, false) || header->checksum != checksum(header, heat)))
		{
			free(heat);
			heat = NULL;
		}
	}
	close(fd);
	return heat;
}

/*
 * The same, of a key
 */
static uint16 *
read_usage(const char *key, char *path, Header *header)
{
	uint16	   *heat;

	file_name(key, path);
	heat = read_file(path, header);
	if (heat != NULL && strcmp(header->usage.key, key) != 0)
	{
		free(heat);
		heat = NULL;
	}
	return heat;
}

/*
 * Replace a file
 */
static void
write_file(const char *path, Header *header, uint16 *heat)
{
	char		temporary[MAXPGPATH + 16];
	bool		done;
	int			fd;

	header->checksum = checksum(header, heat);
	snprintf(temporary, sizeof(temporary), "%s.%d", path, MyProcPid);
	fd = BasicOpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		return;
	done = transfer(fd, header, sizeof(Header), true) &&
		transfer(fd, heat, header->n_units * sizeof(uint16), true);
	if (close(fd) != 0 || !done || rename(temporary, path) != 0)
		unlink(temporary);
}

/*
 * Tell a fresh arena what was used when the model last was in memory
 */
void
moe_usage_read(const char *key, void *arena)
{
	char		path[MAXPGPATH];
	Header		header;
	uint16	   *heat = read_usage(key, path, &header);

	if (heat != NULL)
		(void) moe_arena_remember(arena, heat, (int) header.n_units);
	free(heat);
}

/*
 * Write down how much the units of an arena have been used
 *
 * source tells where its weights come from; NULL if it is private memory, which
 * nobody else can restore.
 */
void
moe_usage_write(const char *key, const void *arena, const MoeWeightSource *source)
{
	char		path[MAXPGPATH];
	moe_arena_stats stats;
	moe_arena_unit unit;
	uint16	   *heat;
	Header		header;

	moe_arena_stats_of(arena, &stats);
	if (stats.n_resident == 0)
		return;					/* nothing new */
	heat = malloc(stats.n_units * sizeof(uint16));
	if (heat == NULL)
		return;
	for (int i = 0; i < stats.n_units; i++)
		heat[i] = moe_arena_unit_of(arena, i, &unit) ? unit.heat : 0;

	memset(&header, 0, sizeof(header));
	header.magic = MAGIC;
	header.version = VERSION;
	header.n_units = stats.n_units;
	strlcpy(header.usage.key, key, MOE_WEIGHTS_KEY_SIZE);
	header.usage.written = GetCurrentTimestamp();
	if (source != NULL)
	{
		header.usage.source = *source;
		header.usage.resident_bytes = stats.resident_bytes;
	}
	file_name(key, path);
	write_file(path, &header, heat);
	free(heat);
}

/*
 * The model's memory was given back: there is nothing to restore
 */
void
moe_usage_given_back(const char *key)
{
	char		path[MAXPGPATH];
	Header		header;
	uint16	   *heat = read_usage(key, path, &header);

	if (heat != NULL && header.usage.resident_bytes > 0)
	{
		header.usage.resident_bytes = 0;
		write_file(path, &header, heat);
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

static int
compare_written(const ListCell *a, const ListCell *b)
{
	const MoeUsage *x = lfirst(a),
			   *y = lfirst(b);

	return x->written > y->written ? -1 : x->written < y->written;
}

/*
 * What there is to restore, the most recently used model first; may raise errors
 */
List *
moe_usage_list(void)
{
	List	   *list = NIL;
	DIR		   *dir = AllocateDir(PGSTAT_STAT_PERMANENT_DIRECTORY);
	struct dirent *entry;

	while ((entry = ReadDirExtended(dir, PGSTAT_STAT_PERMANENT_DIRECTORY, LOG)) != NULL)
	{
		char		path[MAXPGPATH + NAMEDATALEN];
		char		own_path[MAXPGPATH];
		Header		header;
		uint16	   *heat;

		if (strncmp(entry->d_name, FILE_PREFIX, strlen(FILE_PREFIX)) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", PGSTAT_STAT_PERMANENT_DIRECTORY, entry->d_name);
		heat = read_file(path, &header);
		if (heat == NULL)
			continue;
		free(heat);
		file_name(header.usage.key, own_path);
		if (header.usage.resident_bytes > 0 && strcmp(path, own_path) == 0)
		{
			MoeUsage   *usage = palloc(sizeof(MoeUsage));

			*usage = header.usage;
			list = lappend(list, usage);
		}
	}
	FreeDir(dir);
	list_sort(list, compare_written);
	return list;
}
