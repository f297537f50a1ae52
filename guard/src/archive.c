/*
 * The archive module: a finished WAL file becomes a file of the same name in the outbox, a directory beside the cluster
 * and in the same volume. Whoever empties it is not this module's business, and does not have to be alive.
 *
 * The kernel is asked to copy (copy_file_range), and where the file system can, it shares the blocks instead: some
 * microseconds, and no room. That is why this is not FICLONE: an ioctl less in the sandbox, and one path for both.
 *
 * What must stay true: a file in the outbox under its name is whole and on disk; nothing there is ever overwritten; the
 * server is told that a file is archived only when that is so, for then it recycles its own.
 *
 * One exception, which says so. In a volume that is nearly full the archive gives way, for the server must stop when WAL
 * has no room (see space.c). Then there is an empty file NAME.missing instead: history has a gap there, and a restore into
 * it fails for want of the segment.
 */
#include "guard.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "archive/archive_module.h"
#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "storage/fd.h"
#include "utils/guc.h"

extern PGDLLEXPORT const ArchiveModuleCallbacks *_PG_archive_module_init(void);

/* One name, because one archiver writes there: what a crash left under it is written over. A name that starts with a dot
 * is no archived file to anybody. */
#define UNFINISHED ".unfinished"
#define MISSING_SUFFIX ".missing"

#define CHECKPOINT_SEGMENTS 8
/* A checkpoint for each segment would make everything that writes wait for the disk. */

static char *outbox = "";
static unsigned int missed = 0;

static bool
is_configured(ArchiveModuleState *state)
{
	struct stat found;

	if (outbox[0] == '\0')
	{
#ifdef arch_module_check_errdetail
		arch_module_check_errdetail("guard.outbox is not set.");
#endif
		return false;
	}
	if (stat(outbox, &found) != 0 || !S_ISDIR(found.st_mode))
	{
#ifdef arch_module_check_errdetail
		arch_module_check_errdetail("The directory \"%s\" is not there.", outbox);
#endif
		return false;
	}
	return true;
}

static int
open_or_complain(const char *path, int flags)
{
	int			fd = OpenTransientFile(path, flags | O_NOFOLLOW | PG_BINARY);

	if (fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

static void
close_or_complain(int fd, const char *path)
{
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not close file \"%s\": %m", path)));
}

static ssize_t
read_fully(int fd, char *buffer, size_t size, const char *path)
{
	size_t		done = 0;

	while (done < size)
	{
		ssize_t		count = read(fd, buffer + done, size - done);

		if (count == 0)
			break;
		if (count < 0)
		{
			if (errno == EINTR)
				continue;
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", path)));
		}
		done += count;
	}
	return done;
}

static void
write_fully(int fd, const char *buffer, size_t size, const char *path)
{
	while (size > 0)
	{
		ssize_t		count = write(fd, buffer, size);

		if (count < 0)
		{
			if (errno == EINTR)
				continue;
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", path)));
		}
		buffer += count;
		size -= count;
	}
}

static bool
have_same_content(const char *path, const char *other)
{
	int			fd = open_or_complain(path, O_RDONLY);
	int			other_fd = open_or_complain(other, O_RDONLY);
	char	   *mine = palloc(XLOG_BLCKSZ);
	char	   *theirs = palloc(XLOG_BLCKSZ);
	ssize_t		mine_size;
	bool		is_same;

	do
	{
		CHECK_FOR_INTERRUPTS();
		mine_size = read_fully(fd, mine, XLOG_BLCKSZ, path);
		is_same = read_fully(other_fd, theirs, XLOG_BLCKSZ, other) == mine_size && memcmp(mine, theirs, mine_size) == 0;
	} while (is_same && mine_size > 0);
	close_or_complain(other_fd, other);
	close_or_complain(fd, path);
	pfree(mine);
	pfree(theirs);
	return is_same;
}

/* The kernel copies; where it cannot between these two, which it says at the first byte, we do. */
static void
copy_content(int from, const char *from_path, int to, const char *to_path)
{
	struct stat found;
	off_t		left;
	char	   *buffer;
	ssize_t		count;

	if (fstat(from, &found) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not stat file \"%s\": %m", from_path)));
	for (left = found.st_size; left > 0; left -= count)
	{
		count = copy_file_range(from, NULL, to, NULL, left, 0);
		if (count < 0 && errno == EINTR)
			count = 0;
		else if (count < 0 && left == found.st_size &&
				 (errno == EOPNOTSUPP || errno == ENOSYS || errno == EXDEV || errno == EINVAL))
			break;
		else if (count < 0)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not copy file \"%s\" to \"%s\": %m", from_path, to_path)));
		else if (count == 0)
			ereport(ERROR, (errmsg("file \"%s\" became shorter", from_path)));
	}
	if (left == 0)
		return;
	buffer = palloc(XLOG_BLCKSZ);
	while ((count = read_fully(from, buffer, XLOG_BLCKSZ, from_path)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		write_fully(to, buffer, count, to_path);
	}
	pfree(buffer);
}

static bool
archive_file(ArchiveModuleState *state, const char *file, const char *path)
{
	char		target[MAXPGPATH];
	char		unfinished[MAXPGPATH];
	struct stat found;
	int			from;
	int			to;

	snprintf(target, sizeof(target), "%s/%s", outbox, file);
	snprintf(unfinished, sizeof(unfinished), "%s/%s", outbox, UNFINISHED);

	/* (1) There already: from before a crash that the server does not remember. */
	if (lstat(target, &found) == 0)
	{
		if (!have_same_content(path, target))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_FILE),
					 errmsg("WAL file \"%s\" is in the outbox with another content", file)));
		fsync_fname(target, false);
		fsync_fname(outbox, true);
		return true;
	}
	if (errno != ENOENT)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not stat file \"%s\": %m", target)));

	/* (2) No room for history. Timeline and backup history files are small, and others cannot be read without them. */
	if (IsXLogFileName(file) && space_is_short_for_history())
	{
		strlcat(target, MISSING_SUFFIX, sizeof(target));
		close_or_complain(open_or_complain(target, O_WRONLY | O_CREAT), target);
		/* So that WAL goes round sooner than max_wal_size says. */
		if (missed++ % CHECKPOINT_SEGMENTS == 0)
			RequestCheckpoint(CHECKPOINT_IMMEDIATE);
		ereport(WARNING, (errmsg("WAL file \"%s\" is not kept: the volume is full", file)));
		return true;
	}

	/* (3) The content, on disk, under a name that nobody takes for a WAL file. */
	from = open_or_complain(path, O_RDONLY);
	to = open_or_complain(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
	copy_content(from, path, to, unfinished);
	if (pg_fsync(to) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not fsync file \"%s\": %m", unfinished)));
	close_or_complain(to, unfinished);
	close_or_complain(from, path);

	/* (4) The name, on disk as well. */
	if (rename(unfinished, target) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not rename file \"%s\" to \"%s\": %m", unfinished, target)));
	fsync_fname(outbox, true);
	return true;
}

static const ArchiveModuleCallbacks callbacks = {
	.check_configured_cb = is_configured,
	.archive_file_cb = archive_file,
};

const ArchiveModuleCallbacks *
_PG_archive_module_init(void)
{
	return &callbacks;
}

void
archive_init(void)
{
	DefineCustomStringVariable("guard.outbox",
							   "Directory that finished WAL files are put into.",
							   NULL, &outbox, "", PGC_POSTMASTER, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
}
