/* An upstream to measure against: answers every call with a picture of the size, and after the time, its text asks for.
 *
 *     cc -O2 -std=c11 -o upstream upstream.c
 *     ./upstream --port 9100                  prints "listening" once it does; ends on SIGTERM
 *
 * A POST is a call, and billed: `bytes=300000 wait=50` anywhere in its body asks for a reply whose body has 300,000
 * bytes, 50 ms after the request was read. Without them: 2,000 bytes, at once. A prompt is a good place, for it passes
 * every proxy. `GET /calls` tells {"calls": N, "aborted": N}; aborted are calls whose client left before all of its
 * answer was written. `POST /reset` makes both 0. Any other GET answers `ok`. None of these is counted.
 *
 * One thread, epoll, HTTP/1.1 with keep-alive, on 127.0.0.1 alone. A reply's body is made once per size and then only
 * sent, so that what is measured is what stands in front of this program. It is no server for anything else. */

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum {
    DEFAULT_BYTES = 2000,
    MAX_REPLY_BYTES = 256 << 20,
    MAX_WAIT_MS = 24 * 3600 * 1000,
    MAX_REQUEST_BYTES = 128 << 20,
    READ_BYTES = 16 << 10,
    KEPT_BODIES = 32,
    EVENTS = 256,
};

static const size_t NO_TIMER = SIZE_MAX;

/* A reply's body. `users` are the answers that are being sent from it. */
struct body {
    size_t asked_bytes;
    size_t length;
    char *text;
    unsigned users;
    unsigned long last_use;
    bool is_kept;
};

/* What is known of the request that is being read; `head_length` is 0 until its head is complete. */
struct request {
    char method[8];
    char path[32];
    size_t head_length;
    size_t content_length;
    size_t chunk_at;   /* chunked: where in the buffer the next chunk begins, */
    size_t decoded;    /* and where the body that was put together ends */
    bool is_chunked;
    bool may_keep_alive;
    bool wants_continue;
};

enum stage { READING, WAITING, WRITING };

struct connection {
    int fd;
    enum stage stage;
    uint32_t interest;
    char *in;          /* always followed by a zero byte */
    size_t in_length;
    size_t in_capacity;
    struct request request;
    bool is_billed;    /* the answer under way is a call's */
    bool closes;       /* after the answer under way */
    int64_t due_ns;
    size_t timer;      /* its place in the heap */
    char head[256];
    char note[96];     /* the body of an answer that is no picture */
    struct body *body;
    struct iovec rest[2];
};

struct server {
    int epoll;
    int listener;
    long long calls;
    long long aborted;
    struct body *bodies[KEPT_BODIES];
    unsigned long uses;
    struct connection **connections; /* by descriptor */
    size_t capacity;                 /* of connections, and of timers */
    struct connection **timers; /* a heap, the next due first */
    size_t timers_length;
    int alarm;
    int64_t alarm_ns;           /* when it rings; 0: never */
};

/* ---- replies ---- */

/* The signature and the IHDR of a PNG of 1024 x 1024, 8 bit RGB: 33 bytes, so that base64 needs no padding. */
static const char PNG_START[] = "iVBORw0KGgoAAAANSUhEUgAABAAAAAQACAIAAADwf7zU";
static const char BEFORE_PICTURE[] = "{\"created\":1790000000,\"data\":[{\"b64_json\":\"";
static const char AFTER_PICTURE[] =
    "\"}],\"usage\":{\"input_tokens\":10,\"input_tokens_details\":{\"image_tokens\":0,\"text_tokens\":10},"
    "\"output_tokens\":1756,\"output_tokens_details\":{\"image_tokens\":1756,\"text_tokens\":0},"
    "\"total_tokens\":1766}}";

/* Noise does not compress, and comes out the same for a size in every run. */
static void write_noise(char *text, size_t length, uint64_t state)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint64_t bits = 0;
    for (size_t i = 0; i < length; i++) {
        if (i % 10 == 0) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bits = state;
        }
        text[i] = digits[bits & 63];
        bits >>= 6;
    }
}

/* Exactly as long as asked, unless that is less than the smallest: blanks in front of the last brace make up what
 * base64, which comes in fours, leaves over. */
static struct body *make_body(size_t asked_bytes)
{
    const size_t before = sizeof BEFORE_PICTURE - 1, start = sizeof PNG_START - 1, after = sizeof AFTER_PICTURE - 1;
    const size_t smallest = before + start + after;
    const size_t length = asked_bytes > smallest ? asked_bytes : smallest;
    const size_t noise = (length - smallest) / 4 * 4;
    struct body *body = must(calloc(1, sizeof *body));
    char *to = body->text = must(malloc(length));
    memcpy(to, BEFORE_PICTURE, before);
    memcpy(to += before, PNG_START, start);
    write_noise(to += start, noise, 0x9e3779b97f4a7c15u ^ asked_bytes);
    memcpy(to += noise, AFTER_PICTURE, after - 1);
    memset(to += after - 1, ' ', (length - smallest) % 4);
    body->text[length - 1] = '}';
    body->asked_bytes = asked_bytes;
    body->length = length;
    return body;
}

static void free_body(struct body *body)
{
    if (body)
        free(body->text);
    free(body);
}

/* The place for one more body: an empty one, else that of the least recently used which nobody sends, else NULL. */
static struct body **place_for_body(struct server *server)
{
    struct body **oldest = NULL;
    for (struct body **each = server->bodies; each < server->bodies + KEPT_BODIES; each++) {
        if (!*each)
            return each;
        if (!(*each)->users && (!oldest || (*each)->last_use < (*oldest)->last_use))
            oldest = each;
    }
    return oldest;
}

static struct body *find_body(struct server *server, size_t asked_bytes)
{
    for (size_t i = 0; i < KEPT_BODIES; i++)
        if (server->bodies[i] && server->bodies[i]->asked_bytes == asked_bytes)
            return server->bodies[i];
    struct body *made = make_body(asked_bytes);
    struct body **place = place_for_body(server);
    if (place) {
        free_body(*place);
        *place = made;
        made->is_kept = true;
    }
    return made;
}

static struct body *take_body(struct server *server, size_t asked_bytes)
{
    struct body *body = find_body(server, asked_bytes);
    body->users++;
    body->last_use = ++server->uses;
    return body;
}

static void give_back(struct body *body)
{
    if (body && !--body->users && !body->is_kept)
        free_body(body);
}

/* ---- timers: a binary heap whose members know their place ---- */

static void put_timer(struct server *server, size_t place, struct connection *connection)
{
    server->timers[place] = connection;
    connection->timer = place;
}

static void sift_up(struct server *server, size_t place, struct connection *connection)
{
    while (place && server->timers[(place - 1) / 2]->due_ns > connection->due_ns) {
        put_timer(server, place, server->timers[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    put_timer(server, place, connection);
}

static void sift_down(struct server *server, size_t place, struct connection *connection)
{
    for (;;) {
        size_t child = 2 * place + 1;
        if (child + 1 < server->timers_length && server->timers[child + 1]->due_ns < server->timers[child]->due_ns)
            child++;
        if (child >= server->timers_length || server->timers[child]->due_ns >= connection->due_ns)
            break;
        put_timer(server, place, server->timers[child]);
        place = child;
    }
    put_timer(server, place, connection);
}

/* There is room: the heap is as large as the table of connections. */
static void add_timer(struct server *server, struct connection *connection)
{
    sift_up(server, server->timers_length++, connection);
}

static void remove_timer(struct server *server, struct connection *connection)
{
    const size_t place = connection->timer;
    if (place == NO_TIMER)
        return;
    connection->timer = NO_TIMER;
    struct connection *last = server->timers[--server->timers_length];
    if (last == connection)
        return;
    if (place && server->timers[(place - 1) / 2]->due_ns > last->due_ns)
        sift_up(server, place, last);
    else
        sift_down(server, place, last);
}

/* epoll itself counts in milliseconds, which is coarse beside what a proxy adds: a timer's descriptor wakes it. */
static void set_alarm(struct server *server)
{
    const int64_t due_ns = server->timers_length ? server->timers[0]->due_ns : 0;
    const struct itimerspec when = {.it_value = {.tv_sec = due_ns / SECOND_NS, .tv_nsec = due_ns % SECOND_NS}};
    if (due_ns == server->alarm_ns)
        return;
    server->alarm_ns = due_ns;
    timerfd_settime(server->alarm, TFD_TIMER_ABSTIME, &when, NULL);
}

/* ---- requests ---- */

static bool has_word(const char *value, size_t length, const char *word)
{
    const size_t size = strlen(word);
    for (size_t i = 0; i + size <= length; i++)
        if (!strncasecmp(value + i, word, size))
            return true;
    return false;
}

/* The value in a line "name: value", or NULL. */
static const char *value_of(const char *line, size_t length, const char *name)
{
    const size_t size = strlen(name);
    return length > size && line[size] == ':' && !strncasecmp(line, name, size) ? line + size + 1 : NULL;
}

static void read_header(struct request *request, const char *line, size_t length)
{
    const char *value;
    if ((value = value_of(line, length, "content-length")))
        request->content_length = strtoull(value, NULL, 10);
    else if ((value = value_of(line, length, "transfer-encoding")))
        request->is_chunked = has_word(value, (size_t)(line + length - value), "chunked");
    else if ((value = value_of(line, length, "expect")))
        request->wants_continue = has_word(value, (size_t)(line + length - value), "100-continue");
    else if ((value = value_of(line, length, "connection"))) {
        if (has_word(value, (size_t)(line + length - value), "close"))
            request->may_keep_alive = false;
        else if (has_word(value, (size_t)(line + length - value), "keep-alive"))
            request->may_keep_alive = true;
    }
}

/* Copies the word at `at`, or as much of it as fits, and returns what stands behind the blank after it. */
static const char *copy_word(char *to, size_t size, const char *at)
{
    const size_t length = strcspn(at, " \r\n");
    const size_t fitting = length < size ? length : size - 1;
    memcpy(to, at, fitting);
    to[fitting] = 0;
    return at[length] == ' ' ? at + length + 1 : at + length;
}

/* 1: a head was read, 0: it is not complete, -1: this is no HTTP. */
static int read_head(struct connection *connection)
{
    struct request *request = &connection->request;
    const char *blank = memmem(connection->in, connection->in_length, "\r\n\r\n", 4);
    if (!blank)
        return connection->in_length > 4 * READ_BYTES ? -1 : 0;
    const char *version = copy_word(request->method, sizeof request->method, connection->in);
    version = copy_word(request->path, sizeof request->path, version);
    if (strncmp(version, "HTTP/1.", 7))
        return -1;
    request->may_keep_alive = version[7] != '0';
    const char *line = memmem(connection->in, connection->in_length, "\r\n", 2);
    while (line < blank) {
        line += 2;
        const char *line_end = memmem(line, (size_t)(blank + 2 - line), "\r\n", 2);
        read_header(request, line, (size_t)(line_end - line));
        line = line_end;
    }
    request->head_length = (size_t)(blank + 4 - connection->in);
    request->chunk_at = request->decoded = request->head_length;
    return 1;
}

/* Moves whole chunks together, behind the head. 1: the last was read, 0: more is to come, -1: these are no chunks. */
static int read_chunks(struct connection *connection)
{
    struct request *request = &connection->request;
    char *in = connection->in;
    for (;;) {
        const size_t left = connection->in_length - request->chunk_at;
        const char *line_end = memmem(in + request->chunk_at, left, "\r\n", 2);
        if (!line_end)
            return left > READ_BYTES ? -1 : 0;
        char *digits_end;
        const size_t size = strtoull(in + request->chunk_at, &digits_end, 16);
        if (digits_end == in + request->chunk_at || size > MAX_REQUEST_BYTES)
            return -1;
        if (!size) { /* trailers, if any, end as a head does */
            const char *blank = memmem(line_end, (size_t)(in + connection->in_length - line_end), "\r\n\r\n", 4);
            if (blank)
                request->chunk_at = (size_t)(blank + 4 - in);
            return blank != NULL;
        }
        const size_t data_at = (size_t)(line_end + 2 - in);
        if (connection->in_length < data_at + size + 2)
            return 0;
        memmove(in + request->decoded, in + data_at, size);
        request->decoded += size;
        request->chunk_at = data_at + size + 2;
    }
}

static int read_body(struct connection *connection)
{
    struct request *request = &connection->request;
    if (request->is_chunked)
        return read_chunks(connection);
    if (request->content_length > MAX_REQUEST_BYTES)
        return -1;
    if (connection->in_length - request->head_length < request->content_length)
        return 0;
    request->decoded = request->chunk_at = request->head_length + request->content_length;
    return 1;
}

/* 1: a whole request was read, 0: more is to come, -1: the connection is of no use. */
static int read_request(struct connection *connection)
{
    struct request *request = &connection->request;
    if (!request->head_length) {
        const int found = read_head(connection);
        if (found <= 0)
            return found;
    }
    const int found = read_body(connection);
    if (!found && request->wants_continue) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        request->wants_continue = false;
        if (send(connection->fd, go_on, sizeof go_on - 1, MSG_NOSIGNAL) < 0)
            return -1;
    }
    return found;
}

/* The number behind `name`, at most `most`. */
static size_t number_after(const char *text, size_t length, const char *name, size_t otherwise, size_t most)
{
    const char *const text_end = text + length;
    const size_t size = strlen(name);
    const char *at = text;
    while ((at = memmem(at, (size_t)(text_end - at), name, size))) {
        at += size;
        size_t number = 0;
        const char *digit = at;
        for (; digit < text_end && *digit >= '0' && *digit <= '9'; digit++)
            if (number <= most)
                number = number * 10 + (size_t)(*digit - '0');
        if (digit > at)
            return number < most ? number : most;
    }
    return otherwise;
}

/* ---- answers ---- */

static void prepare(struct connection *connection, const char *type, const void *body, size_t length)
{
    const bool keep = connection->request.may_keep_alive;
    static const char form[] =
        "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %zu\r\nconnection: %s\r\n\r\n";
    char *head = connection->head;
    const int size = snprintf(head, sizeof connection->head, form, type, length, keep ? "keep-alive" : "close");
    connection->closes = !keep;
    connection->rest[0] = (struct iovec){head, (size_t)size};
    connection->rest[1] = (struct iovec){(void *)(uintptr_t)body, length};
}

static void prepare_note(struct server *server, struct connection *connection, bool is_count)
{
    char *note = connection->note;
    if (is_count)
        snprintf(note, sizeof connection->note, "{\"calls\": %lld, \"aborted\": %lld}", server->calls, server->aborted);
    else
        strcpy(note, "ok");
    prepare(connection, is_count ? "application/json" : "text/plain", note, strlen(note));
    connection->stage = WRITING;
}

static void prepare_picture(struct server *server, struct connection *connection)
{
    const char *text = connection->in + connection->request.head_length;
    const size_t length = connection->request.decoded - connection->request.head_length;
    const size_t bytes = number_after(text, length, "bytes=", DEFAULT_BYTES, MAX_REPLY_BYTES);
    const size_t wait_ms = number_after(text, length, "wait=", 0, MAX_WAIT_MS);
    server->calls++;
    connection->is_billed = true;
    connection->body = take_body(server, bytes);
    prepare(connection, "application/json", connection->body->text, connection->body->length);
    connection->stage = WRITING;
    if (wait_ms) {
        connection->stage = WAITING;
        connection->due_ns = now_ns() + (int64_t)wait_ms * 1000000;
        add_timer(server, connection);
    }
}

static bool is_request(const struct connection *connection, const char *method, const char *path)
{
    return !strcmp(connection->request.method, method) && !strcmp(connection->request.path, path);
}

/* Decides on the request that was read, and removes it from the buffer. */
static void begin_answer(struct server *server, struct connection *connection)
{
    if (is_request(connection, "POST", "/reset")) {
        server->calls = server->aborted = 0;
        prepare_note(server, connection, true);
    } else if (!strcmp(connection->request.method, "POST")) {
        prepare_picture(server, connection);
    } else {
        prepare_note(server, connection, is_request(connection, "GET", "/calls"));
    }
    const size_t used = connection->request.chunk_at;
    connection->in_length -= used;
    memmove(connection->in, connection->in + used, connection->in_length + 1);
    connection->request = (struct request){0};
}

static void end_answer(struct connection *connection)
{
    give_back(connection->body);
    connection->body = NULL;
    connection->is_billed = false;
    connection->stage = READING;
}

/* False: the client has gone. What the socket does not take now is left in `rest`. */
static bool write_some(struct connection *connection)
{
    struct iovec *rest = connection->rest;
    const ssize_t sent = writev(connection->fd, rest[0].iov_len ? rest : rest + 1, rest[0].iov_len ? 2 : 1);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR;
    const size_t of_head = (size_t)sent < rest[0].iov_len ? (size_t)sent : rest[0].iov_len;
    rest[0].iov_base = (char *)rest[0].iov_base + of_head;
    rest[0].iov_len -= of_head;
    rest[1].iov_base = (char *)rest[1].iov_base + ((size_t)sent - of_head);
    rest[1].iov_len -= (size_t)sent - of_head;
    return true;
}

/* ---- connections ---- */

static void want(struct server *server, struct connection *connection, uint32_t interest)
{
    if (connection->interest == interest)
        return;
    struct epoll_event event = {.events = interest, .data.fd = connection->fd};
    if (epoll_ctl(server->epoll, connection->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, connection->fd, &event))
        fail("epoll_ctl");
    connection->interest = interest;
}

static void drop(struct server *server, struct connection *connection)
{
    remove_timer(server, connection);
    give_back(connection->body);
    server->connections[connection->fd] = NULL;
    close(connection->fd);
    free(connection->in);
    free(connection);
}

/* As far as it goes without waiting. False: the connection is at its end. */
static bool proceed(struct server *server, struct connection *connection)
{
    for (;;) {
        switch (connection->stage) {
        case READING: {
            const int found = read_request(connection);
            if (found <= 0)
                return found == 0;
            begin_answer(server, connection);
            break;
        }
        case WAITING:
            return true;
        case WRITING:
            if (!write_some(connection))
                return false;
            if (connection->rest[0].iov_len + connection->rest[1].iov_len) {
                want(server, connection, EPOLLIN | EPOLLOUT);
                return true;
            }
            want(server, connection, EPOLLIN);
            end_answer(connection);
            if (connection->closes)
                return false;
            break;
        }
    }
}

static void proceed_or_drop(struct server *server, struct connection *connection)
{
    if (proceed(server, connection))
        return;
    server->aborted += connection->is_billed;
    drop(server, connection);
}

/* Room for what is to come; the buffer doubles, so that a large body is moved a few times only. */
static void make_room(struct connection *connection)
{
    if (connection->in_capacity - connection->in_length > READ_BYTES)
        return;
    connection->in_capacity = 2 * connection->in_capacity + 2 * READ_BYTES;
    connection->in = must(realloc(connection->in, connection->in_capacity));
}

/* False: the client has gone. It is read while an answer waits as well, for that is how one learns that. */
static bool read_some(struct connection *connection)
{
    if (connection->in_length > 2 * (size_t)MAX_REQUEST_BYTES)
        return false;
    make_room(connection);
    const size_t room = connection->in_capacity - connection->in_length - 1;
    const ssize_t count = recv(connection->fd, connection->in + connection->in_length, room, 0);
    if (count <= 0)
        return count < 0 && (errno == EAGAIN || errno == EINTR);
    connection->in_length += (size_t)count;
    connection->in[connection->in_length] = 0;
    return true;
}

static void serve(struct server *server, struct connection *connection, uint32_t events)
{
    if (events & ~(uint32_t)EPOLLOUT && !read_some(connection)) {
        server->aborted += connection->is_billed;
        drop(server, connection);
        return;
    }
    proceed_or_drop(server, connection);
}

static void answer_due(struct server *server)
{
    while (server->timers_length && server->timers[0]->due_ns <= now_ns()) {
        struct connection *connection = server->timers[0];
        remove_timer(server, connection);
        connection->stage = WRITING;
        proceed_or_drop(server, connection);
    }
}

static void welcome(struct server *server, int fd)
{
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if ((size_t)fd >= server->capacity) {
        const size_t grown = 2 * (size_t)fd + 64;
        server->connections = must(realloc(server->connections, grown * sizeof *server->connections));
        server->timers = must(realloc(server->timers, grown * sizeof *server->timers));
        memset(server->connections + server->capacity, 0, (grown - server->capacity) * sizeof *server->connections);
        server->capacity = grown;
    }
    struct connection *connection = must(calloc(1, sizeof *connection));
    connection->fd = fd;
    connection->timer = NO_TIMER;
    server->connections[fd] = connection;
    want(server, connection, EPOLLIN);
}

static void accept_all(struct server *server)
{
    int fd;
    while ((fd = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        welcome(server, fd);
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        fail("accept");
}

/* ---- the program ---- */

static void listen_on(struct server *server, int port)
{
    const int one = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(server->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server->listener, (struct sockaddr *)&address, sizeof address) || listen(server->listener, 4096))
        fail("listen");
}

static void watch(struct server *server, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fd < 0 || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event))
        fail("epoll");
}

static void handle(struct server *server, const struct epoll_event *event)
{
    const int fd = event->data.fd;
    uint64_t rings;
    if (fd == server->listener)
        accept_all(server);
    else if (fd != server->alarm)
        serve(server, server->connections[fd], event->events);
    else if (read(fd, &rings, sizeof rings) > 0)
        server->alarm_ns = 0;
}

static void run(struct server *server, const sigset_t *while_waiting)
{
    struct epoll_event events[EVENTS];
    while (!is_ended) {
        set_alarm(server);
        const int count = epoll_pwait(server->epoll, events, EVENTS, -1, while_waiting);
        for (int i = 0; i < count; i++)
            handle(server, &events[i]);
        answer_due(server);
    }
}

static void clear(struct server *server)
{
    for (size_t fd = 0; fd < server->capacity; fd++)
        if (server->connections[fd])
            drop(server, server->connections[fd]);
    for (size_t i = 0; i < KEPT_BODIES; i++)
        free_body(server->bodies[i]);
    free(server->connections);
    free(server->timers);
    close(server->listener);
    close(server->alarm);
    close(server->epoll);
}

int main(int count, char **words)
{
    const int port = count == 3 && !strcmp(words[1], "--port") ? atoi(words[2]) : 0;
    if (port <= 0 || port > 65535) {
        fprintf(stderr, "usage: upstream --port N\n");
        return 2;
    }
    raise_descriptor_limit();
    struct server server = {.epoll = epoll_create1(EPOLL_CLOEXEC)};
    const sigset_t while_waiting = block_signals();
    signal(SIGPIPE, SIG_IGN);
    listen_on(&server, port);
    server.alarm = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(&server, server.listener);
    watch(&server, server.alarm);
    puts("listening");
    fflush(stdout);
    run(&server, &while_waiting);
    clear(&server);
    return 0;
}
