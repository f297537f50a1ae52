/* What a tenant with code execution would try. Installed as /bin/sh, so that COPY … FROM PROGRAM runs it:
 *     sh -c "PROBE ARGUMENT…"
 * It prints one line: `reached …` when the attempt worked, `refused …` and why when it did not. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int report(int worked, const char *what)
{
    if (worked)
        printf("reached %s\n", what);
    else
        printf("refused %s: %s\n", what, strerror(errno));
    return 0;
}

static int read_file(const char *path)
{
    char byte;
    int fd = open(path, O_RDONLY);
    return report(fd >= 0 && read(fd, &byte, 1) == 1, "a file");
}

static int connect_unix(const char *path, int is_abstract)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path + is_abstract, path, sizeof address.sun_path - 2);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + is_abstract + strlen(path) + !is_abstract;
    return report(fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0, "a Unix socket");
}

static int connect_tcp(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, host, &address.sin_addr);
    return report(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "a TCP port");
}

static int connect_tcp6(const char *host, int port)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    inet_pton(AF_INET6, host, &address.sin6_addr);
    return report(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "a TCP port");
}

/* A question to a resolver: enough to carry a secret out, letter by letter. */
static int send_udp(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    inet_pton(AF_INET, host, &address.sin_addr);
    return report(fd >= 0 && sendto(fd, "x", 1, 0, (struct sockaddr *)&address, sizeof address) == 1, "a UDP port");
}

/* The kernel's own ways to be told or asked something. */
static int other_families(void)
{
    int worked = socket(AF_NETLINK, SOCK_RAW, 0) >= 0 || socket(AF_VSOCK, SOCK_STREAM, 0) >= 0 ||
                 socket(AF_ALG, SOCK_SEQPACKET, 0) >= 0;
    return report(worked, "a socket of another family");
}

/* A door of one's own making, or a name for somebody else's. */
static int make_door(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int worked = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    int error = errno;
    if (worked)
        unlink(path);
    errno = error;
    return report(worked, "a place for a door");
}

static int raw_sockets(void)
{
    int worked = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0 || socket(AF_PACKET, SOCK_RAW, 0) >= 0;
    return report(worked, "a raw socket");
}

static int see_process(const char *pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    if (access(path, R_OK) == 0)
        return report(1, "another process in /proc");
    /* "Not permitted" would say that it is there. */
    return report(kill(atoi(pid), 0) == 0 || errno == EPERM, "another process by its number");
}

static int touch_process(int pid)
{
    int worked = kill(pid, 0) == 0 && ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
    return report(worked, "another process");
}

static int system_v(int key, const char *queue)
{
    int id = shmget(key, 0, 0);
    int worked = (id >= 0 && shmat(id, NULL, SHM_RDONLY) != (void *)-1) || mq_open(queue, O_RDONLY) >= 0;
    return report(worked, "another's shared memory or queue");
}

static int keyrings(void)
{
    long key = syscall(SYS_add_key, "user", "cloister-probe", "x", 1L, -2 /* the process keyring */);
    return report(key >= 0, "a kernel keyring");
}

static int mounting(int first)
{
    int worked = unshare(first | CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                 mount("none", "/", "tmpfs", 0, NULL) == 0;
    if (!worked && first == 0 && mount("none", "/", "tmpfs", 0, NULL) == 0)
        worked = 1;
    return report(worked, "a mount of its own");
}

static int devices(void)
{
    int worked = open("/proc/sys/kernel/hostname", O_WRONLY) >= 0 || opendir("/sys/kernel") != NULL ||
                 opendir("/dev/pts") != NULL;
    return report(worked, "/proc/sys, /sys or /dev");
}

static int fork_many(int wanted)
{
    int made = 0;
    pid_t *children = calloc(wanted, sizeof *children);
    for (; made < wanted; made++) {
        children[made] = fork();
        if (children[made] < 0)
            break;
        if (children[made] == 0) {
            pause();
            _exit(0);
        }
    }
    int error = errno;
    for (int i = 0; i < made; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    errno = error;
    return report(made == wanted, "any number of processes");
}

static int hog(long megabytes)
{
    char *memory = mmap(NULL, megabytes << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED)
        for (long offset = 0; offset < megabytes << 20; offset += 4096)
            memory[offset] = 1;
    return report(memory != MAP_FAILED, "any amount of memory");
}

static int fill(const char *path, long megabytes)
{
    static char block[1 << 20];
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    int worked = fd >= 0;
    for (long i = 0; worked && i < megabytes; i++)
        worked = write(fd, block, sizeof block) == sizeof block;
    int error = errno;
    unlink(path);
    errno = error;
    return report(worked, "more disk than the volume has");
}

static int leave_behind(const char *path)
{
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    int worked = (fd >= 0 && fchmod(fd, 04755) == 0) || setrlimit(RLIMIT_CORE, &all) == 0;
    int error = errno;
    unlink(path);
    errno = error;
    return report(worked, "a set-uid file or a core dump");
}

static int writable_code(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mprotect(memory, 4096, PROT_READ | PROT_EXEC) != 0)
            memory = MAP_FAILED;
    }
    return report(memory != MAP_FAILED, "memory for code");
}

/* Copy this program to a place that can be written, and run it there or map it as code. */
static int run_own(const char *path)
{
    char buffer[65536];
    ssize_t count;
    int in = open("/proc/self/exe", O_RDONLY);
    if (in < 0)
        in = open("/bin/sh", O_RDONLY);
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0700);
    while ((count = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, count) != count)
            break;
    close(out);
    int fd = open(path, O_RDONLY);
    int worked = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) != MAP_FAILED;
    int error = errno;
    if (!worked) {
        pid_t pid = fork();
        if (pid == 0) {
            execl(path, path, "-c", "nothing", NULL);
            _exit(77);
        }
        int status;
        waitpid(pid, &status, 0);
        worked = !(WIFEXITED(status) && WEXITSTATUS(status) == 77);
    }
    unlink(path);
    errno = error;
    return report(worked, "code of its own in a file");
}

static int lead_astray(const char *path)
{
    int worked = symlink("/elsewhere", path) == 0;
    int error = errno;
    unlink(path);
    errno = error;
    return report(worked, "a symbolic link");
}

int main(int argc, char **argv)
{
    char *name = argc == 3 && strcmp(argv[1], "-c") == 0 ? strtok(argv[2], " ") : "";
    char *one = strtok(NULL, " "), *two = strtok(NULL, " ");

    if (strcmp(name, "read") == 0) return read_file(one);
    if (strcmp(name, "unix") == 0) return connect_unix(one, 0);
    if (strcmp(name, "abstract") == 0) return connect_unix(one, 1);
    if (strcmp(name, "tcp") == 0) return connect_tcp(one, atoi(two));
    if (strcmp(name, "tcp6") == 0) return connect_tcp6(one, atoi(two));
    if (strcmp(name, "udp") == 0) return send_udp(one, atoi(two));
    if (strcmp(name, "families") == 0) return other_families();
    if (strcmp(name, "door") == 0) return make_door(one);
    if (strcmp(name, "raw") == 0) return raw_sockets();
    if (strcmp(name, "see") == 0) return see_process(one);
    if (strcmp(name, "touch") == 0) return touch_process(atoi(one));
    if (strcmp(name, "sysv") == 0) return system_v(atoi(one), two);
    if (strcmp(name, "keys") == 0) return keyrings();
    if (strcmp(name, "mount") == 0) return mounting(0);
    if (strcmp(name, "userns") == 0) return mounting(CLONE_NEWUSER);
    if (strcmp(name, "devices") == 0) return devices();
    if (strcmp(name, "fork") == 0) return fork_many(atoi(one));
    if (strcmp(name, "hog") == 0) return hog(atol(one));
    if (strcmp(name, "fill") == 0) return fill(one, atol(two));
    if (strcmp(name, "leave") == 0) return leave_behind(one);
    if (strcmp(name, "wx") == 0) return writable_code();
    if (strcmp(name, "own") == 0) return run_own(one);
    if (strcmp(name, "link") == 0) return lead_astray(one);
    if (strcmp(name, "nothing") == 0) return 0;
    printf("unknown probe %s\n", name);
    return 1;
}
