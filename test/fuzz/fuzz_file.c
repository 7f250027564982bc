/*
 * libFuzzer target over the file layer: any bytes as a GGUF file, as a safetensors file, or as
 * config.json must give a model file or an error, and whatever opens must be readable.
 *
 * The first input byte chooses the kind.  GGUF bytes go into a memory file that is opened by its
 * name in /proc; the others go into a folder of their own.
 *
 * Build: clang -g -O1 -fsanitize=fuzzer,address,undefined, with the engine's file layer, -ljansson
 * -lcrypto.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/engine/file/model_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64];

static void remove_folder(void)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[128];
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void make_folder(void)
{
    if (folder[0] != '\0')
        return;
    strcpy(folder,
           access("/dev/shm", W_OK) == 0 ? "/dev/shm/moe-fuzz-XXXXXX" : "/tmp/moe-fuzz-XXXXXX");
    if (mkdtemp(folder) == NULL)
        abort();
    atexit(remove_folder);
}

static void write_member(const char *name, const void *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    close(fd);
}

/* An error must say something; a file must keep its promises. */
static void open_and_read(const char *path)
{
    moe_file *file;
    moe_error err = {0};
    moe_status status = moe_file_open(path, &file, &err);
    if (status != MOE_OK) {
        if (file != NULL || err.status != status || err.message[0] == '\0')
            abort();
        return;
    }
    for (size_t i = 0; i < moe_file_n_tensors(file); i++) {
        const moe_tensor *tensor = moe_file_tensor_at(file, i);
        if (moe_file_tensor(file, tensor->name) != tensor)
            abort();
        char bytes[64];
        size_t n = tensor->size < sizeof(bytes) ? (size_t)tensor->size : sizeof(bytes);
        if (moe_file_read(file, tensor, tensor->size - n, n, bytes, &err) != MOE_OK)
            abort();
    }
    moe_file_chat_template(file);
    moe_file_meta_int(file, "general.alignment", 32);
    moe_file_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    unsigned kind = data[0] % 4;
    data++;
    size--;
    if (kind <= 1) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC);
        if (fd < 0 || write(fd, data, size) != (ssize_t)size)
            abort();
        char path[64];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        open_and_read(path);
        close(fd);
        return 0;
    }
    make_folder();
    write_member("config.json", kind == 2 ? (const void *)"{}" : data, kind == 2 ? 2 : size);
    write_member("model.safetensors", kind == 2 ? data : (const void *)"\2\0\0\0\0\0\0\0{}",
                 kind == 2 ? size : 10);
    open_and_read(folder);
    return 0;
}
