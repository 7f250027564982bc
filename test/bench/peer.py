"""Runs a peer that is a Python library once and prints one line of JSON.

    peer.py tokenize MODEL TEXT                tokenizers, one thread, pieces as in bench_engine.c
    peer.py embed MODEL TEXTS THREADS DTYPE    sentence-transformers, a text per line, after a pass to warm up

MODEL is a folder with tokenizer.json; for tokenize also a GGUF file whose pre-tokenizer is one of those
below, from which the tokenizer is then made (needs the package gguf).  Exits with status 3 and a
line that says why if it cannot be done here.
"""
import json
import os
import sys
import time

PIECE = 8192
CONTROL, USER_DEFINED = 3, 4


def tokenizer_of(model):
    import tokenizers

    if os.path.isdir(model):
        return tokenizers.Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    import gguf

    fields = gguf.GGUFReader(model).fields
    value = lambda key: fields["tokenizer.ggml." + key].contents()
    pre = tokenizers.pre_tokenizers
    split = lambda pattern: pre.Split(tokenizers.Regex(pattern), "isolated")
    before = {
        "gpt-2": [pre.ByteLevel(add_prefix_space=False)],
        "smollm": [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)],
        "deepseek-v3": [
            split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"),
            split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                  r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False)],
    }
    if value("model") != "gpt2" or value("pre") not in before:
        raise ImportError(f"a tokenizer for pre-tokenizer {value('pre')}")
    vocab = {token: i for i, token in enumerate(value("tokens"))}
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre.Sequence(before[value("pre")])
    special = [token for token, kind in zip(vocab, value("token_type")) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in special])
    return tokenizer


def tokenize(model, path):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = tokenizer_of(model)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    data = open(path, "rb").read()
    pieces, at = [], 0
    while at < len(data):
        end = data.find(b"\n", at + PIECE) + 1 or len(data)
        pieces.append(data[at:end].decode())
        at = end
    begin = time.perf_counter()
    encodings = tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
    seconds = time.perf_counter() - begin
    return {"engine": "tokenizers", "tokenize_mbs": len(data) / 1e6 / seconds, "tokens": sum(len(e.ids) for e in encodings)}


def embed(model, path, threads, dtype):
    os.environ["OMP_NUM_THREADS"] = threads
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads != "1" else "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import sentence_transformers
    import torch

    torch.set_num_threads(int(threads))
    encoder = sentence_transformers.SentenceTransformer(
        model, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    texts = open(path, encoding="utf-8").read().splitlines()
    for _ in range(2):
        begin = time.perf_counter()
        encoder.encode(texts, batch_size=32, show_progress_bar=False, normalize_embeddings=True,
                       convert_to_tensor=True)
        seconds = time.perf_counter() - begin
    return {"engine": "sentence-transformers", "config": dtype, "sql_embed_texts": len(texts) / seconds}


try:
    work = {"tokenize": tokenize, "embed": embed}[sys.argv[1]]
    print(json.dumps(work(*sys.argv[2:])))
except ImportError as missing:
    print(missing, file=sys.stderr)
    sys.exit(3)
