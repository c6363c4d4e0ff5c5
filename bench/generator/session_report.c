#include <stdio.h>

#include "session_run.h"

static void print_numbers(const char *name, const Bytes *numbers) {
    const uint32_t *values = (const uint32_t *)(const void *)numbers->data;
    printf("\"%s\": [", name);
    for (size_t i = 0; i < numbers->size / sizeof *values; i++) printf(i ? ", %u" : "%u", values[i]);
    fputs("]", stdout);
}

static void print_fairness(const SessionRun *run) {
    double worst = 0, sum = 0;
    uint64_t count = 0;
    uint32_t fewest = UINT32_MAX, most = 0;
    for (long i = 0; i < run->options->sessions; i++) {
        const Session *session = &run->sessions[i];
        double mean = session->num_answered ? session->wait_ns / session->num_answered : 0;
        if (mean > worst) worst = mean;
        sum += session->wait_ns;
        count += session->num_answered;
        fewest = session->num_answered < fewest ? session->num_answered : fewest;
        most = session->num_answered > most ? session->num_answered : most;
    }
    double mean = count ? sum / (double)count : 0;
    printf("\"fairness\": {\"worst_mean_ms\": %.6f, \"mean_ms\": %.6f, \"ratio\": %.4f, \"fewest\": %u, \"most\": %u}", worst / 1e6,
           mean / 1e6, mean > 0 ? worst / mean : 0, fewest, most);
}

void session_run_print(const SessionRun *run, const Loop *loop) {
    printf("{\"sessions\": %ld, \"streams\": %ld, \"connections\": %ld, \"steps\": %ld, \"coalesce\": %s,\n", run->options->sessions,
           run->options->streams, run->options->connections, run->options->steps, run->options->coalesce ? "true" : "false");
    printf("\"stepped\": %u, ", run->num_stepped);
    printf("\"unanswered\": %u, \"most_in_flight\": %u, \"reads\": %llu, \"sends\": %llu, ", run->in_flight, run->most_in_flight,
           (unsigned long long)loop->num_reads, (unsigned long long)loop->num_sends);
    print_fairness(run);
    fputs(",\n", stdout);
    measure_print(&run->measure, stdout);
    fputs(",\n\"checked\": [", stdout);
    bool any = false;
    for (long i = 0; i < run->options->sessions; i++) {
        if (!run->sessions[i].answers) continue;
        printf("%s{\"session\": %ld, ", any ? ",\n" : "", i);
        print_numbers("inputs", run->sessions[i].inputs);
        fputs(", ", stdout);
        print_numbers("answers", run->sessions[i].answers);
        fputs("}", stdout);
        any = true;
    }
    puts("]}");
}
