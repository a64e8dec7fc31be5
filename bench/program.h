/* What both programs of the bench stand on: the signal that ends them, failing, memory, the clock and descriptors.
 *
 * It needs _GNU_SOURCE. Each program is one file and uses all of it, so that nothing here has to be linked. */

#ifndef PROGRAM_H
#define PROGRAM_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static const int64_t SECOND_NS = 1000000000;

static volatile sig_atomic_t is_ended;

static void end(int number)
{
    (void)number;
    is_ended = 1;
}

/* SIGTERM and SIGINT arrive only while the program waits: none is missed between the look at the flag and the wait. */
static sigset_t block_signals(void)
{
    sigset_t signals, while_waiting;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, &while_waiting);
    signal(SIGTERM, end);
    signal(SIGINT, end);
    return while_waiting;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *must(void *memory)
{
    if (!memory)
        fail("memory");
    return memory;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND_NS + now.tv_nsec;
}

/* As many as this process may ask for. */
static void raise_descriptor_limit(void)
{
    struct rlimit descriptors;
    if (!getrlimit(RLIMIT_NOFILE, &descriptors)) {
        descriptors.rlim_cur = descriptors.rlim_max;
        setrlimit(RLIMIT_NOFILE, &descriptors);
    }
}

#endif
