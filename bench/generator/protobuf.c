#include "protobuf.h"

#include <string.h>

void put_varint(Bytes *bytes, uint64_t value) {
    uint8_t buffer[10];
    size_t size = 0;
    while (value >= 0x80) {
        buffer[size++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    buffer[size++] = (uint8_t)value;
    bytes_append(bytes, buffer, size);
}

void put_uint(Bytes *bytes, uint32_t field, uint64_t value) {
    put_varint(bytes, (uint64_t)field << 3 | VARINT);
    put_varint(bytes, value);
}

void put_bytes(Bytes *bytes, uint32_t field, const void *data, size_t size) {
    put_varint(bytes, (uint64_t)field << 3 | DELIMITED);
    put_varint(bytes, size);
    bytes_append(bytes, data, size);
}

uint64_t read_varint(Reader *reader) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && reader->at < reader->end; shift += 7) {
        uint8_t byte = *reader->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return value;
    }
    die("expected a varint in an answer, got %s", reader->at < reader->end ? "one above 64 bits" : "the end");
}

static uint64_t read_fixed(Reader *reader, size_t size) {
    uint64_t value = 0;
    if ((size_t)(reader->end - reader->at) < size) die("expected %zu bytes of a fixed field in an answer, got the end", size);
    memcpy(&value, reader->at, size); /* little-endian, as the machines that this runs on */
    reader->at += size;
    return value;
}

bool read_field(Reader *reader, Field *field) {
    if (reader->at == reader->end) return false;
    uint64_t tag = read_varint(reader);
    field->number = (uint32_t)(tag >> 3);
    field->type = tag & 7;
    switch (field->type) {
        case VARINT: field->value = read_varint(reader); break;
        case FIXED64: field->value = read_fixed(reader, 8); break;
        case FIXED32: field->value = read_fixed(reader, 4); break;
        case DELIMITED: {
            uint64_t size = read_varint(reader);
            if (size > (uint64_t)(reader->end - reader->at)) die("a field of an answer is longer than the answer");
            field->bytes = (Reader){reader->at, reader->at + size};
            reader->at += size;
            break;
        }
        default: die("expected wire type 0, 1, 2 or 5 in an answer, got %u", field->type);
    }
    return true;
}
