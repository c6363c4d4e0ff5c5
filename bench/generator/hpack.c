#include "hpack.h"

#include <stdlib.h>
#include <string.h>

static void put_integer(Bytes *block, uint8_t pattern, int prefix_bits, size_t value) {
    size_t most = ((size_t)1 << prefix_bits) - 1;
    uint8_t byte = (uint8_t)(pattern | (value < most ? value : most));
    bytes_append(block, &byte, 1);
    if (value < most) return;
    for (value -= most;; value >>= 7) {
        byte = (uint8_t)(value >= 0x80 ? value | 0x80 : value);
        bytes_append(block, &byte, 1);
        if (value < 0x80) return;
    }
}

static void put_string(Bytes *block, const char *text, size_t size) {
    put_integer(block, 0, 7, size);
    bytes_append(block, text, size);
}

void hpack_request(Bytes *block, const char *authority, const char *path, const char *const *metadata) {
    bytes_append(block, "\x83\x86", 2); /* :method POST, :scheme http: entries 3 and 6 of the static table */
    put_integer(block, 0, 4, 4);        /* :path */
    put_string(block, path, strlen(path));
    put_integer(block, 0, 4, 1); /* :authority */
    put_string(block, authority, strlen(authority));
    put_integer(block, 0, 4, 31); /* content-type */
    put_string(block, "application/grpc", 16);
    put_integer(block, 0, 4, 0);
    put_string(block, "te", 2);
    put_string(block, "trailers", 8);
    for (; *metadata; metadata++) {
        const char *colon = strchr(*metadata, ':');
        if (!colon) die("expected metadata as name:value, got %s", *metadata);
        put_integer(block, 0, 4, 0);
        put_string(block, *metadata, (size_t)(colon - *metadata));
        put_string(block, colon + 1, strlen(colon + 1));
    }
}

typedef struct {
    const uint8_t *at, *end;
} Block;

typedef struct {
    const char *text;
    size_t size;
    int huffman;
} String;

static size_t read_integer(Block *block, int prefix_bits) {
    size_t most = ((size_t)1 << prefix_bits) - 1, value = *block->at++ & most;
    if (value < most) return value;
    for (int shift = 0; block->at < block->end && shift < 35; shift += 7) {
        uint8_t byte = *block->at++;
        value += (size_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return value;
    }
    die("a header of the server has a broken integer");
}

static String read_string(Block *block) {
    if (block->at == block->end) die("a header of the server ends too early");
    int huffman = *block->at >> 7;
    size_t size = read_integer(block, 7);
    if (size > (size_t)(block->end - block->at)) die("a header of the server ends too early");
    String string = {(const char *)block->at, size, huffman};
    block->at += size;
    return string;
}

static int is(String name, const char *expected) {
    return !name.huffman && name.size == strlen(expected) && !memcmp(name.text, expected, name.size);
}

static int number(String value) {
    char text[12] = "";
    if (value.huffman || !value.size || value.size >= sizeof text) return STATUS_UNREADABLE;
    memcpy(text, value.text, value.size);
    char *end;
    long parsed = strtol(text, &end, 10);
    return *end || parsed < 0 ? STATUS_UNREADABLE : (int)parsed;
}

void hpack_read(const uint8_t *data, size_t size, Answer *answer) {
    static const int statuses[] = {200, 204, 206, 304, 400, 404, 500}; /* entries 8 to 14 of the static table */
    Block block = {data, data + size};
    while (block.at < block.end) {
        uint8_t first = *block.at;
        if (first & 0x80) { /* a whole field from the table */
            size_t index = read_integer(&block, 7);
            if (index > 61) die("the server indexes headers (entry %zu) though it was told not to", index);
            if (index >= 8 && index <= 14) answer->http_status = statuses[index - 8];
            continue;
        }
        if ((first & 0xe0) == 0x20) { /* the table's new size */
            read_integer(&block, 5);
            continue;
        }
        size_t index = read_integer(&block, (first & 0xc0) == 0x40 ? 6 : 4);
        if (index > 61) die("the server indexes headers (entry %zu) though it was told not to", index);
        String name = {"", 0, 0};
        if (!index) name = read_string(&block);
        String value = read_string(&block);
        if ((index >= 8 && index <= 14) || (!index && is(name, ":status"))) answer->http_status = number(value);
        if (index) continue;
        if (is(name, "grpc-status")) answer->grpc_status = number(value);
        if (is(name, "grpc-message") && !value.huffman) {
            size_t kept = value.size < sizeof answer->message - 1 ? value.size : sizeof answer->message - 1;
            memcpy(answer->message, value.text, kept);
            answer->message[kept] = 0;
        }
    }
}
