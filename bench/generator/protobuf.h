/* As much of the protobuf wire format as the Session messages need.
   Source: https://protobuf.dev/programming-guides/encoding/ */
#ifndef PROTOBUF_H
#define PROTOBUF_H
#include <stdbool.h>

#include "bytes.h"

enum { VARINT = 0, FIXED64 = 1, DELIMITED = 2, FIXED32 = 5 };

typedef struct {
    const uint8_t *at, *end;
} Reader;

typedef struct {
    uint32_t number, type;
    uint64_t value; /* of a VARINT, FIXED32 or FIXED64 */
    Reader bytes;   /* of a DELIMITED */
} Field;

void put_varint(Bytes *bytes, uint64_t value);
void put_uint(Bytes *bytes, uint32_t field, uint64_t value);
void put_bytes(Bytes *bytes, uint32_t field, const void *data, size_t size);

uint64_t read_varint(Reader *reader);

/* Read the next field; false at the end. What is no protobuf ends the program. */
bool read_field(Reader *reader, Field *field);

#endif
