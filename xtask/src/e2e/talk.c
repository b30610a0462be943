/* Traffic of known size: `talk serve` answers, `talk ask ADDRESS` asks the one who answers there and stays. Each counts what its
   calls gave and took, and prints that in one line: the one who asks at its end, the other once it can be asked, and whenever it is asked to.

   TCP: a request of REQUEST bytes, an answer of ANSWER bytes, one connection each. A request of one byte has the server take
   what lies in its small socket, and print. UDP: an echo; a socket with little room, which nobody reads until then. DNS: a
   server that answers after DELAY, that a name does not exist if it begins with n. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 20, REQUEST = 1000, ANSWER = 100000, ECHOES = 50, ECHO = 100, FLOOD = 200, FLOODED = 1000, NAMES = 20, NO_NAMES = 10 };
enum { TCP_PORT = 7000, ECHO_PORT = 7001, SMALL_PORT = 7002, DNS_PORT = 53, DELAY_US = 20000 };

static long long connections, tcp[2], bytes[2], datagrams[2], flood, lookups[2], waited_us;
enum { SENT, TAKEN };

static void end(int signal) { (void)signal; _exit(0); }
static void fail(const char *what) { perror(what); exit(1); }

static struct sockaddr_in6 address(const char *text, int port) {
    struct sockaddr_in6 found = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any };
    char mapped[64];
    snprintf(mapped, sizeof mapped, strchr(text, ':') ? "%s" : "::ffff:%s", text);
    if (inet_pton(AF_INET6, mapped, &found.sin6_addr) != 1) fail(text);
    return found;
}

/* An address of IPv4 has a socket of IPv4, but for a server's, which takes both. */
static int open_to(const char *text, int kind, int port) {
    struct sockaddr_in6 to = address(text, port);
    struct sockaddr_in short_to = { .sin_family = AF_INET, .sin_port = htons(port) };
    int is_short = IN6_IS_ADDR_V4MAPPED(&to.sin6_addr);
    memcpy(&short_to.sin_addr, &to.sin6_addr.s6_addr[12], 4);
    int opened = socket(is_short ? AF_INET : AF_INET6, kind, 0);
    if (opened < 0) fail("socket");
    int failed = is_short ? connect(opened, (void *)&short_to, sizeof short_to) : connect(opened, (void *)&to, sizeof to);
    if (failed) fail("connect");
    return opened;
}

static void put(int to, long long *sum, const void *from, size_t length) {
    ssize_t sent = send(to, from, length, MSG_NOSIGNAL);
    if (sent < 0) fail("send");
    *sum += sent;
    if ((size_t)sent < length) put(to, sum, (const char *)from + sent, length - sent);
}

static void tell(void) {
    printf("talk connections=%lld tcp_sent=%lld tcp_taken=%lld udp_sent=%lld udp_taken=%lld datagrams_sent=%lld datagrams_taken=%lld "
           "flood=%lld ok=%lld nxdomain=%lld waited_us=%lld\n",
           connections, tcp[SENT], tcp[TAKEN], bytes[SENT], bytes[TAKEN], datagrams[SENT], datagrams[TAKEN], flood, lookups[0], lookups[1],
           waited_us);
    fflush(stdout);
}

static char room[ANSWER];

static ssize_t take(int from, struct sockaddr_in6 *who, int flags) {
    socklen_t length = sizeof *who;
    ssize_t taken = recvfrom(from, room, sizeof room, flags, (void *)who, who ? &length : NULL);
    if (taken >= 0) bytes[TAKEN] += taken, datagrams[TAKEN]++;
    return taken;
}

static void give(int to, const void *from, size_t length, struct sockaddr_in6 *who) {
    ssize_t sent = sendto(to, from, length, 0, (void *)who, who ? sizeof *who : 0);
    if (sent < 0) fail("sendto");
    bytes[SENT] += sent, datagrams[SENT]++;
}

static int bound(int kind, int port) {
    struct sockaddr_in6 at = address("::", port);
    int opened = socket(AF_INET6, kind, 0), both = 0, again = 1, little = 4096;
    setsockopt(opened, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof both);
    setsockopt(opened, SOL_SOCKET, SO_REUSEADDR, &again, sizeof again);
    if (port == SMALL_PORT) setsockopt(opened, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    if (bind(opened, (void *)&at, sizeof at) || (kind == SOCK_STREAM && listen(opened, CONNECTIONS))) fail("bind");
    return opened;
}

static void serve(void) {
    struct pollfd all[] = { { .fd = bound(SOCK_STREAM, TCP_PORT), .events = POLLIN },
                            { .fd = bound(SOCK_DGRAM, ECHO_PORT), .events = POLLIN },
                            { .fd = bound(SOCK_DGRAM, DNS_PORT), .events = POLLIN } };
    int little = bound(SOCK_DGRAM, SMALL_PORT);
    struct sockaddr_in6 who;
    tell();
    for (;;) {
        /* Awake now and then: a container that never runs has no values to be named. */
        if (poll(all, 3, 2000) < 0 && errno != EINTR) fail("poll");
        if (all[0].revents) {
            int peer = accept(all[0].fd, NULL, NULL);
            ssize_t taken, whole = 0;
            while (whole < REQUEST && (taken = recv(peer, room, sizeof room, 0)) > 0) {
                whole += taken;
                if (whole == 1) break;
            }
            connections++, tcp[TAKEN] += whole;
            if (whole == 1) {
                while (take(little, NULL, MSG_DONTWAIT) >= 0) { }
                put(peer, &tcp[SENT], "d", 1);
            } else put(peer, &tcp[SENT], room, ANSWER);
            close(peer);
            if (whole == 1) tell();
        }
        if (all[1].revents) {
            ssize_t taken = take(all[1].fd, &who, 0);
            give(all[1].fd, room, taken, &who);
        }
        if (all[2].revents) {
            ssize_t taken = take(all[2].fd, &who, 0);
            usleep(DELAY_US);
            room[2] = (char)0x81, room[3] = (char)(room[13] == 'n' ? 0x83 : 0x80);
            give(all[2].fd, room, taken, &who);
        }
    }
}

static long long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static void request(const char *server, size_t length) {
    int peer = open_to(server, SOCK_STREAM, TCP_PORT);
    ssize_t taken;
    connections++;
    put(peer, &tcp[SENT], room, length);
    while ((taken = recv(peer, room, sizeof room, 0)) > 0) tcp[TAKEN] += taken;
    close(peer);
}

static void look_up(int server, const char *name, long long *count) {
    static unsigned short id;
    char query[64] = { 0, 0, 1, 0, 0, 1 };
    unsigned short own = htons(++id);
    memcpy(query, &own, 2);
    query[12] = (char)strlen(name);
    strcpy(query + 13, name);
    size_t length = 13 + strlen(name) + 5;
    query[length - 3] = query[length - 1] = 1;
    long long began = now_us();
    give(server, query, length, NULL);
    if (take(server, NULL, 0) < 0) fail("recv");
    waited_us += now_us() - began;
    (*count)++;
}

static void ask(const char *server) {
    for (int at = 0; at < CONNECTIONS; at++) request(server, REQUEST);
    int echo = open_to(server, SOCK_DGRAM, ECHO_PORT), little = open_to(server, SOCK_DGRAM, SMALL_PORT);
    int names = open_to(server, SOCK_DGRAM, DNS_PORT);
    for (int at = 0; at < ECHOES; at++) {
        give(echo, room, ECHO, NULL);
        if (take(echo, NULL, 0) < 0) fail("recv");
    }
    for (int at = 0; at < NAMES; at++) look_up(names, "ok", &lookups[0]);
    for (int at = 0; at < NO_NAMES; at++) look_up(names, "no", &lookups[1]);
    for (int at = 0; at < FLOOD; at++) give(little, room, FLOODED, NULL), flood++;
    request(server, 1);
    tell();
    for (;;) sleep(2);
}

int main(int count, char **words) {
    /* A namespace's first process is spared signals that it has no handler for. */
    signal(SIGTERM, end);
    if (count == 2 && !strcmp(words[1], "serve")) serve();
    if (count == 3 && !strcmp(words[1], "ask")) ask(words[2]);
    return 64;
}
