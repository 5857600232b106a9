/* Preloaded into a process: counts every change it makes to files below a folder, and raises a signal
 * before, in the middle of or after the n-th, or lets it fail. A write in the middle is torn: half of its
 * bytes are written. Or it happens and yet is said to have failed, as on a network file system that lost its
 * answer. Beside that, the first reads of files below a folder can fail.
 *
 * cc -shared -fPIC -O2 -o dying.so dying.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BEFORE, AMID, AFTER, FAILS, LIES };

static atomic_long count;
static long at = -1;
static int number, when;
static char below[PATH_MAX], flaky_below[PATH_MAX];
static atomic_int flaky_times;
static int flaky_error;

void dying_arm(long at_, int number_, int when_, const char *below_) {
    snprintf(below, sizeof below, "%s", below_);
    number = number_;
    when = when_;
    at = at_;
    atomic_store(&count, 0);
}

void dying_flaky(int times, int error, const char *below_) {
    snprintf(flaky_below, sizeof flaky_below, "%s", below_);
    flaky_error = error;
    atomic_store(&flaky_times, times);
}

long dying_count(void) { return atomic_load(&count); }

static void die(void) { kill(getpid(), number); }

static int is_below_path(int folder, const char *path) {
    char whole[PATH_MAX], name[64];
    if (at < 0 || !path) return 0;
    if (path[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(whole, sizeof whole)) return 0;
        } else {
            snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
            ssize_t size = readlink(name, whole, sizeof whole - 1);
            if (size < 0) return 0;
            whole[size] = 0;
        }
        return strncmp(whole, below, strlen(below)) == 0;
    }
    return strncmp(path, below, strlen(below)) == 0;
}

static int is_below(int fd) {
    char name[64], path[PATH_MAX];
    if (at < 0) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return strncmp(path, below, strlen(below)) == 0;
}

/* Returns whether the call that is about to happen is the one. */
static int is_it(void) { return atomic_fetch_add(&count, 1) == at; }

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define CALL(condition, call) \
    int it = (condition) && is_it(); \
    if (it && when == FAILS) { errno = number; return -1; } \
    if (it && when < AFTER) die(); \
    __typeof__(call) result = call; \
    if (it && when == LIES) { errno = number; return -1; } \
    if (it && when == AFTER) die(); \
    return result

#define WRITE(condition, call, half) \
    int it = (condition) && is_it(); \
    if (it && when >= FAILS) { errno = number; return -1; } \
    if (it && when == BEFORE) die(); \
    if (it && when == AMID && size > 1) { \
        ssize_t result = half; \
        die(); \
        return result; \
    } \
    ssize_t result = call; \
    if (it && when != BEFORE) die(); \
    return result

static int fails(int fd) {
    char name[64], path[PATH_MAX];
    if (atomic_load(&flaky_times) <= 0) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    if (strncmp(path, flaky_below, strlen(flaky_below)) || atomic_fetch_sub(&flaky_times, 1) <= 0) return 0;
    errno = flaky_error;
    return 1;
}

ssize_t read(int fd, void *data, size_t size) {
    REAL(read);
    return fails(fd) ? -1 : real(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    WRITE(is_below(fd), real(fd, data, size), real(fd, data, size / 2));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    WRITE(is_below(fd), real(fd, data, size, place), real(fd, data, size / 2, place));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    REAL(pwrite);
    WRITE(is_below(fd), real(fd, data, size, place), real(fd, data, size / 2, place));
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
    REAL(copy_file_range);
    WRITE(is_below(to), real(from, from_at, to, to_at, size, flags), real(from, from_at, to, to_at, size / 2, flags));
}

int fsync(int fd) { REAL(fsync); CALL(is_below(fd), real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); CALL(is_below(fd), real(fd)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); CALL(is_below(fd), real(fd, size)); }
int rename(const char *a, const char *b) { REAL(rename); CALL(is_below_path(AT_FDCWD, b), real(a, b)); }
int renameat(int f, const char *a, int g, const char *b) { REAL(renameat); CALL(is_below_path(g, b), real(f, a, g, b)); }
int mkdir(const char *a, mode_t m) { REAL(mkdir); CALL(is_below_path(AT_FDCWD, a), real(a, m)); }
int unlink(const char *a) { REAL(unlink); CALL(is_below_path(AT_FDCWD, a), real(a)); }
int unlinkat(int f, const char *a, int g) { REAL(unlinkat); CALL(is_below_path(f, a), real(f, a, g)); }
int rmdir(const char *a) { REAL(rmdir); CALL(is_below_path(AT_FDCWD, a), real(a)); }
int symlink(const char *a, const char *b) { REAL(symlink); CALL(is_below_path(AT_FDCWD, b), real(a, b)); }

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    CALL((flags & (O_CREAT | O_TRUNC)) && is_below_path(AT_FDCWD, path), real(path, flags, mode));
}

int open(const char *path, int flags, ...) {
    REAL(open);
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    CALL((flags & (O_CREAT | O_TRUNC)) && is_below_path(AT_FDCWD, path), real(path, flags, mode));
}
