/* A load of known size: `burn MILLISECONDS exit CODE`, `burn MILLISECONDS stay` or `burn PERCENT always`;
   `burn MEGABYTES hog` takes so much memory and stays.
   Uses that much CPU itself, prints what its cgroup used by the kernel's own count, and ends or stays. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }

static long long own_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long cgroup_ns(void) {
    long long used = -1;
    FILE *file = fopen("/sys/fs/cgroup/cpuacct/cpuacct.usage", "r");
    if (file) {
        if (fscanf(file, "%lld", &used) != 1) used = -1;
    } else if ((file = fopen("/sys/fs/cgroup/cpu.stat", "r"))) {
        if (fscanf(file, "usage_usec %lld", &used) == 1) used *= 1000;
    }
    if (file) fclose(file);
    return used;
}

static void burn_until(long long ns) { while (own_ns() < ns) { } }

int main(int count, char **words) {
    if (count < 3) return 64;
    long long amount = atoll(words[1]);
    /* A namespace's first process is spared signals that it has no handler for. */
    signal(SIGTERM, end);
    if (!strcmp(words[2], "always")) {
        for (;;) {
            burn_until(own_ns() + amount * 1000000);
            usleep((100 - amount) * 1000);
        }
    }
    if (!strcmp(words[2], "hog")) {
        volatile char *taken = malloc(amount << 20);
        for (long long at = 0; taken && at < amount << 20; at += 4096) taken[at] = 1;
        for (;;) sleep(2);
    }
    burn_until(amount * 1000000);
    /* The kernel books a running slice at its end. */
    usleep(2000);
    printf("burn own=%lld cgroup=%lld\n", own_ns(), cgroup_ns());
    fflush(stdout);
    if (!strcmp(words[2], "exit")) return count > 3 ? atoi(words[3]) : 0;
    /* Awake now and then: a container that never runs has no values to be named. */
    for (;;) sleep(2);
}
