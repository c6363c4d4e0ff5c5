#include "histogram.h"

#include "bytes.h"

static uint32_t bucket_of(uint64_t ns) {
    if (ns >> 47) return NUM_BUCKETS - 1;
    if (ns < (1u << SUB_BITS)) return (uint32_t)ns;
    int shift = 63 - __builtin_clzll(ns) - SUB_BITS; /* leaves SUB_BITS + 1 bits, the highest of them set */
    return ((uint32_t)shift << SUB_BITS) + (uint32_t)(ns >> shift);
}

static double middle_of(uint32_t bucket) {
    if (bucket < (2u << SUB_BITS)) return bucket;
    int shift = (int)(bucket >> SUB_BITS) - 1;
    uint64_t low = (uint64_t)((bucket & ((1u << SUB_BITS) - 1)) | (1u << SUB_BITS)) << shift;
    return (double)low + (double)((uint64_t)1 << shift) / 2;
}

void histogram_add(Histogram *histogram, int64_t ns) {
    if (!histogram->buckets) histogram->buckets = allocate(NUM_BUCKETS, sizeof *histogram->buckets);
    if (ns < 0) ns = 0;
    histogram->buckets[bucket_of((uint64_t)ns)]++;
    histogram->count++;
    histogram->sum_ns += (double)ns;
    if (ns > histogram->max_ns) histogram->max_ns = ns;
}

double histogram_quantile(const Histogram *histogram, double quantile) {
    if (!histogram->count) return 0;
    uint64_t rank = (uint64_t)(quantile * (double)histogram->count), seen = 0;
    if (rank >= histogram->count) rank = histogram->count - 1;
    for (uint32_t bucket = 0; bucket < NUM_BUCKETS; bucket++) {
        seen += histogram->buckets[bucket];
        if (seen > rank) {
            double value = middle_of(bucket);
            return value < (double)histogram->max_ns ? value : (double)histogram->max_ns;
        }
    }
    return (double)histogram->max_ns;
}

void histogram_print(const Histogram *histogram, FILE *file) {
    double mean = histogram->count ? histogram->sum_ns / (double)histogram->count : 0;
    fprintf(file, "{\"count\": %llu, \"mean\": %.6f, \"p50\": %.6f, \"p90\": %.6f, \"p99\": %.6f, \"p99.9\": %.6f, ",
            (unsigned long long)histogram->count, mean / 1e6, histogram_quantile(histogram, 0.50) / 1e6,
            histogram_quantile(histogram, 0.90) / 1e6, histogram_quantile(histogram, 0.99) / 1e6,
            histogram_quantile(histogram, 0.999) / 1e6);
    fprintf(file, "\"max\": %.6f}", (double)histogram->max_ns / 1e6);
}
