// One seed -> a process whose dice and wall clock are the simulation's. Preloaded into the simulator's own process only.
//
// Hash tables, uids, jitter and the runtime's choices all draw from getrandom(2), some from the clock: each thread gets its own sequence
// from the seed. The wall clock is what the simulation wrote into a file it shares with us, and so is the monotonic clock of its thread.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static const int64_t START_SECONDS = 1767225600; // 2026-01-01T00:00:00Z
static uint64_t seed;
static volatile uint64_t *micros;
static __thread uint64_t state;
static __thread int begun;

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("SKIFF_SIM_SEED"), *path = getenv("SKIFF_SIM_CLOCK");
    seed = text ? strtoull(text, NULL, 10) : 0;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *micros, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) micros = page;
}

// splitmix64
static uint64_t next(void) {
    if (!begun) {
        state = seed;
        begun = 1;
    }
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    for (size_t i = 0; i < length; i++) ((unsigned char *)buffer)[i] = (unsigned char)next();
    return (ssize_t)length;
}

static int tells_the_story(void) {
    static __thread int known;
    char name[16] = "";
    if (!known) known = prctl(PR_GET_NAME, name) == 0 && strcmp(name, "story") == 0;
    return known;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int ours = clock == CLOCK_REALTIME || (clock == CLOCK_MONOTONIC && tells_the_story());
    if (!ours || !micros) return (int)syscall(SYS_clock_gettime, clock, at);
    at->tv_sec = START_SECONDS + (time_t)(*micros / 1000000);
    at->tv_nsec = (long)(*micros % 1000000) * 1000;
    return 0;
}
