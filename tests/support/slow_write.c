/* Loaded with LD_PRELOAD: delays every write to a file whose name ends in .log, like a slow or stuck disk. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

ssize_t write(int descriptor, const void *bytes, size_t count)
{
    static ssize_t (*next)(int, const void *, size_t);
    char link[64], path[4096];

    if (!next)
        next = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");

    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path);
    const char *delay = getenv("SLOW_WRITE_MILLIS");
    if (delay && length > 4 && !memcmp(path + length - 4, ".log", 4)) {
        long millis = atol(delay);
        struct timespec time = {millis / 1000, millis % 1000 * 1000000};
        nanosleep(&time, NULL);
    }
    return next(descriptor, bytes, count);
}
