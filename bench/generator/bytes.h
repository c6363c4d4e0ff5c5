/* A growable run of bytes, and the end of the program when something is wrong. */
#ifndef BYTES_H
#define BYTES_H
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *data;
    size_t size, capacity;
} Bytes;

/* Make room for `size` more bytes at the end and return where they go; they count as written. */
uint8_t *bytes_extend(Bytes *bytes, size_t size);

void bytes_append(Bytes *bytes, const void *data, size_t size);

/* Forget the first `size` bytes. */
void bytes_drop(Bytes *bytes, size_t size);

/* Memory of `count` zeroed elements, never NULL. */
void *allocate(size_t count, size_t size);

/* Say on stderr what is wrong and exit with status 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
