// A number, a file -> the process ends within that many calls on files, and syncs fail while the file is there. Preloaded into the skiff
// under test only, whose calls on files all come through here.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static long calls, dies_at;
static const char *sync_fails;
static int counter = -1;

__attribute__((constructor)) static void begin(void) {
    const char *at = getenv("DISK_DIES_AT"), *count = getenv("DISK_COUNTS");
    dies_at = at ? atol(at) : 0;
    sync_fails = getenv("DISK_SYNC_FAILS");
    counter = count ? syscall(SYS_openat, AT_FDCWD, count, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
}

static void call(void) {
    long now = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (counter >= 0) syscall(SYS_pwrite64, counter, &now, sizeof now, (off_t)0);
    if (now == dies_at) kill(getpid(), SIGKILL);
}

static int sync_or_fail(long number, int file) {
    call();
    if (sync_fails && syscall(SYS_access, sync_fails, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return syscall(number, file);
}

int fsync(int file) { return sync_or_fail(SYS_fsync, file); }

int fdatasync(int file) { return sync_or_fail(SYS_fdatasync, file); }

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset) {
    call();
    return syscall(SYS_pwrite64, file, bytes, size, offset);
}

int ftruncate64(int file, off64_t size) {
    call();
    return syscall(SYS_ftruncate, file, size);
}

int rename(const char *from, const char *to) {
    call();
    return syscall(SYS_rename, from, to);
}

int unlink(const char *path) {
    call();
    return syscall(SYS_unlink, path);
}

int mkdir(const char *path, mode_t mode) {
    call();
    return syscall(SYS_mkdir, path, mode);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
        call();
    }
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
