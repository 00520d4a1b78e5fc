#include "team.h"

#include "vector.h"

// OpenMP's entry points, of the library that torch has loaded.
static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void);
static int (*thread_count)(void);

EXPORT void stillmotion_use_threads(void *start, void *number, void *count) {
    parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))start;
    thread_number = (int (*)(void))number;
    thread_count = (int (*)(void))count;
}

typedef struct {
    size_t units;
    void (*work)(const void *, size_t, size_t);
    const void *job;
} Shared;

static void do_share(void *all) {
    const Shared *shared = all;
    const size_t mine = (size_t)thread_number(), count = (size_t)thread_count();
    shared->work(shared->job, shared->units * mine / count, shared->units * (mine + 1) / count);
}

void share(size_t units, unsigned threads, void (*work)(const void *job, size_t from, size_t to), const void *job) {
    if (threads <= 1 || units <= 1 || parallel == NULL) {
        work(job, 0, units);
        return;
    }
    Shared shared = {units, work, job};
    parallel(do_share, &shared, threads, 0);
}
