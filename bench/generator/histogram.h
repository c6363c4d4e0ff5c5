/* Latencies in buckets at most 1/256 wide of what they hold, after the idea of HdrHistogram (Gil Tene). */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H
#include <stdint.h>
#include <stdio.h>

enum { SUB_BITS = 8, NUM_BUCKETS = (48 - SUB_BITS) << SUB_BITS };

typedef struct {
    uint32_t *buckets; /* NUM_BUCKETS of them, allocated with the first value */
    uint64_t count;
    int64_t max_ns;
    double sum_ns;
} Histogram;

void histogram_add(Histogram *histogram, int64_t ns);

/* The value of that rank (nearest rank; the middle of its bucket, never above the maximum), in ns; 0 when empty. */
double histogram_quantile(const Histogram *histogram, double quantile);

/* {"count": .., "mean": .., "p50": .., "p90": .., "p99": .., "p99.9": .., "max": ..}, in ms. */
void histogram_print(const Histogram *histogram, FILE *file);

#endif
