/*
 * Opening a Hugging Face folder: config.json and its companions, the chat template, and the
 * weights, which are one model.safetensors or the shards that model.safetensors.index.json lists.
 *
 * The JSON files are parsed once and kept.  Of the index only the names of the shards matter: their
 * own headers describe the tensors; but a tensor that the index promises must be in the shard it
 * names.
 */
#include "file_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const moe_hf_json_names[] = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
};
const size_t moe_hf_n_json = sizeof(moe_hf_json_names) / sizeof(moe_hf_json_names[0]);

/* Does folder/name exist?  *found = false for a file that does not; other troubles are errors. */
static moe_status find(const char *folder, const char *name, bool *found, moe_error *err)
{
    char *path = moe_path_join(folder, name);
    if (path == NULL)
        return moe_fail_memory(err, strlen(folder) + strlen(name) + 2);
    struct stat st;
    *found = stat(path, &st) == 0;
    int why = errno;
    free(path);
    errno = why;
    if (*found || errno == ENOENT || errno == ENOTDIR)
        return MOE_OK;
    return moe_fail_errno(err, name);
}

/* The alphabetically first file in the folder whose name ends in ".gguf", malloc'ed; NULL if none.
 */
static char *first_gguf(const char *folder)
{
    DIR *dir = opendir(folder);
    char *first = NULL;
    const struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (!moe_ends_with(entry->d_name, ".gguf") ||
            (first != NULL && strcmp(entry->d_name, first) >= 0))
            continue;
        free(first);
        first = strdup(entry->d_name);
    }
    if (dir != NULL)
        closedir(dir);
    return first;
}

/* The error for a folder that lacks what makes it a model. */
static moe_status fail_folder(const char *path, const char *lacks, moe_error *err)
{
    char *name = moe_path_base(path);
    if (name == NULL)
        return moe_fail_memory(err, strlen(path) + 1);
    char *gguf = first_gguf(path); /* only for the hint: not found is as good as out of memory */
    moe_fail(err, MOE_ERR_FORMAT, "folder \"%s\" has no %s", name, lacks);
    if (gguf != NULL)
        moe_hint(err, "To use the GGUF file in it, give the path of \"%s\".", gguf);
    else
        moe_hint(err, "Give a GGUF file, or a Hugging Face folder with config.json, tokenizer.json "
                      "and safetensors files.");
    free(name);
    free(gguf);
    return err->status;
}

moe_status moe_hf_check_folder(const char *path, moe_error *err)
{
    bool found;
    moe_status status = find(path, "config.json", &found, err);
    if (status != MOE_OK || found)
        return status;
    return fail_folder(path, "config.json", err);
}

/* Reads the names of the shards out of the index, each once. */
static moe_status list_shards(const json_t *index, moe_names *out, moe_error *err)
{
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        return moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" has no weight_map", MOE_HF_INDEX);
    json_t *seen = json_object(); /* used as a set */
    if (seen == NULL)
        return moe_fail_memory(err, sizeof(void *));
    moe_status status = MOE_OK;
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        const char *shard = json_string_value(value);
        if (shard == NULL || strchr(shard, '/') != NULL || shard[0] == '.' ||
            strlen(shard) != json_string_length(value) || !moe_ends_with(shard, ".safetensors")) {
            status =
                moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" gives tensor \"%s\" no proper file name",
                         MOE_HF_INDEX, tensor);
        } else if (json_object_get(seen, shard) == NULL) {
            if (json_object_set_new(seen, shard, json_true()) != 0)
                status = moe_fail_memory(err, strlen(shard));
            else
                status = moe_names_add(out, strdup(shard), err);
        }
        if (status != MOE_OK)
            break;
    }
    json_decref(seen);
    moe_names_sort(out);
    return status;
}

moe_status moe_hf_weight_files(const char *path, moe_names *out, json_t **index, moe_error *err)
{
    bool found;
    *index = NULL;
    moe_status status = find(path, MOE_HF_WEIGHTS, &found, err);
    if (status != MOE_OK)
        return status;
    if (found)
        return moe_names_add(out, strdup(MOE_HF_WEIGHTS), err);
    status = moe_json_read(path, MOE_HF_INDEX, true, index, err);
    if (status != MOE_OK)
        return status;
    if (*index == NULL)
        return fail_folder(path, MOE_HF_WEIGHTS, err);
    return list_shards(*index, out, err);
}

/* Every tensor of the index must be in the shard it names. */
static moe_status check_index(const moe_file *file, const json_t *index, moe_error *err)
{
    json_t *map = json_object_get(index, "weight_map");
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value)
    {
        const moe_tensor *tensor = moe_file_tensor(file, name);
        if (tensor == NULL ||
            strcmp(file->parts[tensor->part].name, json_string_value(value)) != 0) {
            moe_fail(err, MOE_ERR_FORMAT,
                     "tensor \"%s\" is not in file \"%s\", where the index puts it", name,
                     json_string_value(value));
            return moe_hint(err, "The files seem to be of different versions; fetch them again.");
        }
    }
    return MOE_OK;
}

static moe_status read_weights(moe_file *file, const char *path, moe_error *err)
{
    moe_names shards = {0};
    json_t *index = NULL;
    moe_status status = moe_hf_weight_files(path, &shards, &index, err);
    for (size_t i = 0; status == MOE_OK && i < shards.n; i++) {
        char *shard_path = moe_path_join(path, shards.items[i]);
        if (shard_path == NULL) {
            status = moe_fail_memory(err, strlen(path) + strlen(shards.items[i]) + 2);
            break;
        }
        status = moe_safetensors_add(file, shard_path, shards.items[i], err);
        free(shard_path);
        if (status == MOE_ERR_NOT_FOUND)
            moe_hint(err, "The index lists %zu weight files; all must be in the folder.", shards.n);
    }
    if (status == MOE_OK)
        status = moe_file_index(file, err);
    if (status == MOE_OK && index != NULL)
        status = check_index(file, index, err);
    json_decref(index);
    moe_names_free(&shards);
    return status;
}

static moe_status read_template(moe_file *file, const char *path, moe_error *err)
{
    char *template_path = moe_path_join(path, MOE_HF_TEMPLATE);
    if (template_path == NULL)
        return moe_fail_memory(err, strlen(path) + sizeof(MOE_HF_TEMPLATE) + 1);
    moe_part part;
    moe_status status = moe_part_open(template_path, MOE_HF_TEMPLATE, true, &part, err);
    free(template_path);
    if (status != MOE_OK || part.fd < 0)
        return status;
    size_t len;
    status = moe_part_read_all(&part, &file->chat_template, &len, err);
    if (status == MOE_OK && strlen(file->chat_template) != len)
        status = moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" holds a zero byte", MOE_HF_TEMPLATE);
    moe_part_close(&part);
    return status;
}

moe_status moe_hf_open(moe_file *file, const char *path, moe_error *err)
{
    moe_status status = moe_hf_check_folder(path, err);
    if (status != MOE_OK)
        return status;
    file->json = calloc(moe_hf_n_json, sizeof(*file->json));
    if (file->json == NULL)
        return moe_fail_memory(err, moe_hf_n_json * sizeof(*file->json));
    for (size_t i = 0; status == MOE_OK && i < moe_hf_n_json; i++) {
        const char *name = moe_hf_json_names[i];
        status = moe_json_read(path, name, true, &file->json[i], err);
        if (status != MOE_OK || file->json[i] == NULL)
            continue;
        bool wants_array = strcmp(name, "modules.json") == 0;
        if (json_is_array(file->json[i]) != wants_array)
            status = moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is not a JSON %s", name,
                              wants_array ? "array" : "object");
    }
    if (status == MOE_OK)
        status = read_template(file, path, err);
    if (status == MOE_OK)
        status = read_weights(file, path, err);
    return status;
}
