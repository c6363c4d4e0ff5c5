/* The headers that a gRPC client sends and needs to read. Source: RFC 7541.
   Nothing is Huffman-coded, and the server is told to index nothing (SETTINGS_HEADER_TABLE_SIZE 0). */
#ifndef HPACK_H
#define HPACK_H
#include "bytes.h"

enum { STATUS_ABSENT = -1, STATUS_UNREADABLE = -2, MAX_METADATA = 8 };

typedef struct {
    int http_status, grpc_status; /* or STATUS_ABSENT, STATUS_UNREADABLE */
    char message[256];            /* grpc-message, cut */
} Answer;

/* Append the header block of a gRPC call; `metadata` are "name:value", at most MAX_METADATA, ended by NULL. */
void hpack_request(Bytes *block, const char *authority, const char *path, const char *const *metadata);

/* Read what `Answer` has from a header block; fields that the block lacks are left as they are. */
void hpack_read(const uint8_t *block, size_t size, Answer *answer);

#endif
