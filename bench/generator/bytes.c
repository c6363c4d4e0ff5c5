#include "bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t *bytes_extend(Bytes *bytes, size_t size) {
    if (bytes->size + size > bytes->capacity) {
        size_t capacity = bytes->capacity ? bytes->capacity : 256;
        while (capacity < bytes->size + size) capacity *= 2;
        bytes->data = realloc(bytes->data, capacity);
        if (!bytes->data) die("out of memory: %zu bytes", capacity);
        bytes->capacity = capacity;
    }
    bytes->size += size;
    return bytes->data + bytes->size - size;
}

void bytes_append(Bytes *bytes, const void *data, size_t size) {
    if (size) memcpy(bytes_extend(bytes, size), data, size);
}

void bytes_drop(Bytes *bytes, size_t size) {
    bytes->size -= size;
    if (bytes->size && size) memmove(bytes->data, bytes->data + size, bytes->size);
}

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) die("out of memory: %zu x %zu bytes", count, size);
    return memory;
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("generator: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}
