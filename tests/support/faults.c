// Records what a process writes below one folder, and lets one of these calls fail; see faults.py, which drives it.
// Loaded by LD_PRELOAD, because FFmpeg, safetensors and PyTorch write past Python.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define PATH_BYTES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_BYTES];
static long fails_at, count;
static int error_number;
static char *calls;  // lines "CALL PATH"
static size_t calls_bytes, calls_room;

void faults_begin(const char *where, long number, int error) {
    pthread_mutex_lock(&lock);
    snprintf(folder, sizeof folder, "%s/", where);
    fails_at = number, error_number = error, count = 0, calls_bytes = 0;
    pthread_mutex_unlock(&lock);
}

const char *faults_end(void) {
    pthread_mutex_lock(&lock);
    folder[0] = 0;
    pthread_mutex_unlock(&lock);
    return calls_bytes ? calls : "";
}

// Whether this call fails. A disk that is full stays full; other errors come once.
static int fails(const char *call, const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder)) != 0) return 0;
    pthread_mutex_lock(&lock);
    size_t needed = calls_bytes + strlen(call) + strlen(path) + 3;
    if (needed > calls_room) calls = realloc(calls, calls_room = 2 * needed);
    calls_bytes += sprintf(calls + calls_bytes, "%s %s\n", call, path);
    count++;
    int takes_room = strcmp(call, "fsync") != 0 && strcmp(call, "rename") != 0;
    int failed = fails_at && (count == fails_at || (count > fails_at && error_number == ENOSPC && takes_room));
    pthread_mutex_unlock(&lock);
    if (failed) errno = error_number;
    return failed;
}

static int fails_on(const char *call, int file) {
    if (!folder[0]) return 0;
    char link[64], path[PATH_BYTES];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (length < 0) return 0;
    path[length] = 0;
    struct stat about;
    if (fstat(file, &about) == 0 && S_ISDIR(about.st_mode)) strcat(path, "/");
    return fails(call, path);
}

#define OPEN(name, declared, given)                                                              \
    int name declared {                                                                          \
        mode_t mode = 0;                                                                         \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                     \
            va_list rest;                                                                        \
            va_start(rest, flags);                                                               \
            mode = va_arg(rest, mode_t);                                                         \
            va_end(rest);                                                                        \
        }                                                                                        \
        if ((flags & O_CREAT) && fails("open", path)) return -1;                                 \
        return REAL(name) given;                                                                 \
    }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

// Half of what a failing call was to write arrives.
ssize_t write(int file, const void *bytes, size_t size) {
    if (!fails_on("write", file)) return REAL(write)(file, bytes, size);
    int error = errno;
    (void)!REAL(write)(file, bytes, size / 2);
    errno = error;
    return -1;
}

ssize_t writev(int file, const struct iovec *pieces, int number) {
    return fails_on("write", file) ? -1 : REAL(writev)(file, pieces, number);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    return fails_on("write", file) ? -1 : REAL(pwrite64)(file, bytes, size, at);
}

ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    return fails_on("write", to) ? -1 : REAL(sendfile)(to, from, at, size);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    return fails_on("write", to) ? -1 : REAL(sendfile64)(to, from, at, size);
}

int ftruncate64(int file, off64_t size) { return fails_on("write", file) ? -1 : REAL(ftruncate64)(file, size); }

int fsync(int file) { return fails_on("fsync", file) ? -1 : REAL(fsync)(file); }

int rename(const char *from, const char *to) {
    char both[2 * PATH_BYTES];
    snprintf(both, sizeof both, "%s\t%s", from, to);
    return fails("rename", both) ? -1 : REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }
