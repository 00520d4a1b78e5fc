// Work shared among the threads that torch has, and no others: a second set would spin beside them.
#pragma once

#include <stddef.h>

// `work` is told which of `units` to do. Every unit's result is its own, so that threads do not change it.
void share(size_t units, unsigned threads, void (*work)(const void *job, size_t from, size_t to), const void *job);
