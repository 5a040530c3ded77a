/* A small web server for systemd's socket activation, see sd_listen_fds(3). Nothing in here knows of lithos.
 *
 * Started with a listening socket it serves on that, started by hand it opens port 8000. Each connection has a thread
 * and gets one answer. SIGTERM ends it when all connections have been answered.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

/* Less than the five seconds between SIGTERM and SIGKILL: nobody who says nothing can keep us from ending. */
static const struct timeval PATIENCE = {.tv_sec = 3};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_ended = PTHREAD_COND_INITIALIZER;
static int connections;
static volatile sig_atomic_t stopping;

static const char *variable(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static bool has_request(int client)
{
    char head[8192];
    size_t length = 0;
    while (length < sizeof head - 1) {
        ssize_t more = recv(client, head + length, sizeof head - 1 - length, 0);
        if (more <= 0)
            return false;
        length += more;
        head[length] = '\0';
        if (strstr(head, "\r\n\r\n"))
            return true;
    }
    return false;
}

static void answer(int client)
{
    char page[256], whole[512];
    int size = snprintf(page, sizeof page, "Hello from %.100s, version %.100s\n",
                        variable("LITHOS_NAME", "a plain process"), variable("VERSION", "0"));
    int length = snprintf(whole, sizeof whole,
                          "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
                          "Connection: close\r\n\r\n%s", size, page);
    send(client, whole, length, MSG_NOSIGNAL);
}

static void *serve(void *argument)
{
    int client = (int)(intptr_t)argument;
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &PATIENCE, sizeof PATIENCE);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &PATIENCE, sizeof PATIENCE);
    if (has_request(client))
        answer(client);
    close(client);
    pthread_mutex_lock(&lock);
    if (--connections == 0)
        pthread_cond_signal(&all_ended);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void begin(int client)
{
    pthread_t thread;
    pthread_mutex_lock(&lock);
    connections++;
    pthread_mutex_unlock(&lock);
    if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)client) == 0)
        pthread_detach(thread);
    else
        serve((void *)(intptr_t)client);
}

static int listening_socket(void)
{
    int given = sd_listen_fds(1);
    if (given == 1)
        return SD_LISTEN_FDS_START;
    if (given != 0)
        errx(EXIT_FAILURE, "sd_listen_fds says %d, and we serve on one socket", given);

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(8000)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, SOMAXCONN))
        err(EXIT_FAILURE, "cannot listen on port 8000");
    return listener;
}

static void stop(int number)
{
    (void)number;
    stopping = 1;
}

int main(void)
{
    sigset_t blocked, before;
    struct sigaction action = {.sa_handler = stop};
    struct pollfd waiting = {.fd = listening_socket(), .events = POLLIN};

    /* The signal comes in ppoll and nowhere else, in this thread and no other. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGTERM, &action, NULL);

    /* Another instance may take the connection that woke us, and accept must not wait for the next one. */
    fcntl(waiting.fd, F_SETFL, fcntl(waiting.fd, F_GETFL) | O_NONBLOCK);

    sd_notify(0, "READY=1");
    while (!stopping) {
        if (ppoll(&waiting, 1, NULL, &before) < 0) {
            if (errno == EINTR)
                continue;
            err(EXIT_FAILURE, "ppoll");
        }
        int client = accept4(waiting.fd, NULL, NULL, SOCK_CLOEXEC);
        if (client >= 0)
            begin(client);
        else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
            warn("accept");
    }

    sd_notify(0, "STOPPING=1");
    close(waiting.fd);
    pthread_mutex_lock(&lock);
    while (connections > 0)
        pthread_cond_wait(&all_ended, &lock);
    pthread_mutex_unlock(&lock);
    return EXIT_SUCCESS;
}
