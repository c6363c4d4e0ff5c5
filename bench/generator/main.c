#include <signal.h>
#include <string.h>

#include "bytes.h"
#include "workloads.h"

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        void (*run)(const Options *);
    } workloads[] = {{"sessions", run_sessions}, {"grpc", run_grpc}, {"tags", run_tags},
                     {"infer-stream", run_infer_stream}, {"http", run_http}};
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; count > 1 && i < sizeof workloads / sizeof *workloads; i++) {
        if (strcmp(arguments[1], workloads[i].name)) continue;
        Options options = options_read(count - 2, arguments + 2);
        workloads[i].run(&options);
        return 0;
    }
    die("expected sessions, grpc, tags, infer-stream or http, then --option value ..., got %s", count > 1 ? arguments[1] : "nothing");
}
