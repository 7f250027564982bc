/*
 * Reading files that nobody vouches for.
 *
 * Files are opened without waiting (a FIFO would hang otherwise) and must be regular; data comes by
 * pread, so a file that somebody truncates meanwhile gives an error and never SIGBUS.  Messages
 * name the file by the name the caller gave, which for a user's path is its last component.
 */
#define _GNU_SOURCE
#include "file_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "files larger than 2 GiB need a 64-bit off_t");

char *moe_path_join(const char *folder, const char *name)
{
    size_t n = strlen(folder), m = strlen(name);
    char *path = malloc(n + m + 2);
    if (path == NULL)
        return NULL;
    memcpy(path, folder, n);
    path[n] = '/';
    memcpy(path + n + 1, name, m + 1);
    return path;
}

char *moe_path_base(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    return begin == end ? strdup(path) : strndup(path + begin, end - begin);
}

bool moe_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

moe_status moe_fail_errno(moe_error *err, const char *name)
{
    switch (errno) {
    case ENOENT:
    case ENOTDIR:
        return moe_fail(err, MOE_ERR_NOT_FOUND, "file \"%s\" does not exist", name);
    case EACCES:
    case EPERM:
        moe_fail(err, MOE_ERR_PERMISSION, "permission denied for file \"%s\"", name);
        return moe_hint(err, "The operating-system user of this process must be able to read the "
                             "file and to enter its folders.");
    case ENOMEM:
        return moe_fail(err, MOE_ERR_MEMORY, "out of memory while reading file \"%s\"", name);
    default:
        return moe_fail(err, MOE_ERR_IO, "could not read file \"%s\": %s", name, strerror(errno));
    }
}

moe_status moe_part_open(const char *path, const char *name, bool optional, moe_part *out,
                         moe_error *err)
{
    *out = (moe_part){.fd = -1};
    int fd;
    do {
        fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0 && optional && (errno == ENOENT || errno == ENOTDIR))
        return MOE_OK;

    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        moe_fail_errno(err, name);
    } else if (!S_ISREG(st.st_mode)) {
        moe_fail(err, MOE_ERR_FORMAT, "\"%s\" is not a regular file", name);
    } else {
        char *copy = strdup(name);
        if (copy != NULL) {
            *out = (moe_part){
                .fd = fd, .size = (uint64_t)st.st_size, .modified = st.st_mtim, .name = copy};
            return MOE_OK;
        }
        moe_fail_memory(err, strlen(name) + 1);
    }
    if (fd >= 0)
        close(fd);
    return err->status;
}

void moe_part_close(moe_part *part)
{
    if (part->fd >= 0)
        close(part->fd);
    free(part->name);
    *part = (moe_part){.fd = -1};
}

moe_status moe_part_check(const moe_part *part, moe_error *err)
{
    struct stat st;
    if (part->fd < 0)
        return MOE_OK;
    if (fstat(part->fd, &st) != 0)
        return moe_fail_errno(err, part->name);
    if ((uint64_t)st.st_size == part->size && st.st_mtim.tv_sec == part->modified.tv_sec &&
        st.st_mtim.tv_nsec == part->modified.tv_nsec)
        return MOE_OK;
    moe_fail(err, MOE_ERR_IO, "file \"%s\" has changed while the model is open", part->name);
    return moe_hint(err, "Replace a model's file by renaming a new one over it; writing into it "
                         "changes it under the sessions that read it.");
}

moe_status moe_part_read(const moe_part *part, uint64_t offset, size_t len, void *dst,
                         moe_error *err)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(part->fd, (char *)dst + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return moe_fail_errno(err, part->name);
        if (n == 0) {
            moe_fail(err, MOE_ERR_IO, "file \"%s\" ends at byte %llu while it is being read",
                     part->name, (unsigned long long)(offset + done));
            return moe_hint(err,
                            "The file was truncated after it had been opened; fetch it again.");
        }
        done += (size_t)n;
    }
    return MOE_OK;
}

void moe_part_announce(const moe_part *part, uint64_t offset, size_t len)
{
    enum { PIECE = 512 << 10 }; /* the kernel cuts off what is longer than its own read-ahead */
    char first;
    const struct iovec to = {&first, 1};

    if (preadv2(part->fd, &to, 1, (off_t)offset, RWF_NOWAIT) >= 0 || errno != EAGAIN)
        return;
    for (size_t at = 0; at < len; at += PIECE)
        posix_fadvise(part->fd, (off_t)(offset + at), (off_t)(len - at < PIECE ? len - at : PIECE),
                      POSIX_FADV_WILLNEED);
}

moe_status moe_part_read_all(const moe_part *part, char **text, size_t *len, moe_error *err)
{
    if (part->size > MOE_MAX_JSON_BYTES)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "file \"%s\" has %llu bytes, more than the %llu allowed", part->name,
                        (unsigned long long)part->size, (unsigned long long)MOE_MAX_JSON_BYTES);
    *len = (size_t)part->size;
    *text = malloc(*len + 1);
    if (*text == NULL)
        return moe_fail_memory(err, *len + 1);
    moe_status status = moe_part_read(part, 0, *len, *text, err);
    if (status != MOE_OK) {
        free(*text);
        *text = NULL;
        return status;
    }
    (*text)[*len] = '\0';
    return MOE_OK;
}

/* Does head start with the text, letters of either case alike? */
static bool starts_with(const char *head, size_t len, const char *text)
{
    return len >= strlen(text) && strncasecmp(head, text, strlen(text)) == 0;
}

moe_status moe_check_content(const moe_part *part, const char *wanted, moe_error *err)
{
    char head[64];
    size_t len = part->size < sizeof(head) ? (size_t)part->size : sizeof(head);
    moe_status status = moe_part_read(part, 0, len, head, err);
    if (status != MOE_OK)
        return status;

    if (len == 0) {
        moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is empty", part->name);
        return moe_hint(err, "Fetch the file again.");
    }
    if (starts_with(head, len, "version https://git-lfs")) {
        moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is a Git LFS pointer, not the %s file itself",
                 part->name, wanted);
        return moe_hint(err, "Run \"git lfs pull\" in its repository to fetch the content.");
    }
    const char *text = head;
    while (text < head + len && strchr(" \t\r\n", *text) != NULL && *text != '\0')
        text++;
    size_t text_len = len - (size_t)(text - head);
    if (starts_with(text, text_len, "<!doctype") || starts_with(text, text_len, "<html") ||
        starts_with(text, text_len, "<?xml")) {
        moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is a web page, not a %s file", part->name,
                 wanted);
        return moe_hint(err, "The download gave a page in place of the file: use the file's own "
                             "address, and check that you may access it.");
    }
    if (len >= 4 && (memcmp(head, "lmgg", 4) == 0 || memcmp(head, "tjgg", 4) == 0 ||
                     memcmp(head, "fmgg", 4) == 0 || memcmp(head, "algg", 4) == 0)) {
        moe_fail(err, MOE_ERR_UNSUPPORTED, "file \"%s\" is in the old GGML format", part->name);
        return moe_hint(err, "Fetch or convert the model in the GGUF format.");
    }
    if (len >= 4 && (memcmp(head, "PK\3\4", 4) == 0 || memcmp(head, "\x80\2", 2) == 0)) {
        moe_fail(err, MOE_ERR_UNSUPPORTED, "file \"%s\" is a PyTorch or zip file", part->name);
        return moe_hint(err, "Use the model's GGUF file or its safetensors folder.");
    }
    return MOE_OK;
}

moe_status moe_fail_content(const moe_part *part, const char *wanted, moe_error *err)
{
    moe_status status = moe_check_content(part, wanted, err);
    if (status != MOE_OK)
        return status;
    return moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is not a %s file", part->name, wanted);
}
