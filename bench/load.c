/* A client that measures a server and costs little itself: it keeps C connections busy and drops what it is sent.
 *
 *     cc -O2 -std=c11 -o load load.c
 *     ./load --port 8080 --connections 16 --seconds 1.5 --body '{"model":"gpt-image-2","prompt":"{n} bytes=3000000"}'
 *
 * Each connection, on 127.0.0.1 with keep-alive, has one request out; the next follows when the reply was taken whole.
 *
 *     --seconds S      end after S seconds; what is then under way is not counted
 *     --count N        end after N requests, each answered or failed; with --seconds: whichever comes first
 *     --path P         /v1/images/generations unless given
 *     --header LINE    'name: value', as often as needed
 *     --body TEXT      every {n} in it becomes a number: 0, 1, 2 and so on over all connections
 *     --keys K         ... that begins again after K numbers
 *     --start N        ... that begins at N
 *     --timeout S      end after S seconds whatever happens; 60 unless given
 *     --hold           print the result, then keep the connections open and unread until SIGTERM or the timeout
 *
 * It prints one JSON object. `replies` are whole replies of any status, `errors` are connections that failed and
 * replies that were cut short; `seconds` go from the first connection to the end; `bytes` are those of the replies'
 * bodies; `labels` count the values of `x-imagegate-cache` or `x-cache`; a latency goes from a request's first byte to
 * its reply's last one; `cpu_seconds` are this process's own. A call that fails is not repeated, for it may have been
 * billed; its connection pauses for 10 ms. SIGTERM ends a run early, with its result.
 *
 * One thread, epoll. A body of known length is dropped inside the kernel (MSG_TRUNC): copying it would cost as much as
 * serving it, on the same machine, and the client would be what is measured. */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum {
    MAX_HEAD_BYTES = 64 << 10,
    FIRST_BYTES = 16 << 10, /* the most that is read of a reply whose length is not known yet */
    CHUNK_BYTES = 256 << 10,
    DROP_BYTES = 16 << 20,
    MAX_LABELS = 16,
    LABEL_BYTES = 32,
    STATUSES = 1000,
    EVENTS = 256,
};

/* Before a connection that failed is opened again: a server that is gone shall not be asked a million times. */
static const int64_t PAUSE_NS = 10000000;

struct options {
    int port;
    int connections;
    double seconds;
    long long count; /* 0: without end */
    const char *path;
    char *headers;
    const char *body;
    long long keys;
    long long start;
    double timeout;
    bool holds;
};

enum stage { CLOSED, CONNECTING, IDLE, SENDING, HEAD, LENGTH, CHUNKS, TO_END };
enum chunk_part { SIZE, EXTENSION, DATA, DATA_END, TRAILER };

/* Where in a chunked body one stands. */
struct chunks {
    enum chunk_part part;
    uint64_t left;       /* of this chunk */
    size_t line_length;  /* of this trailer */
    bool is_last;
};

struct connection {
    int fd;
    enum stage stage;
    uint32_t interest;
    int64_t open_ns;   /* CLOSED: when it may be opened again */
    int64_t began_ns;
    char *out;
    size_t out_length;
    size_t out_sent;
    size_t out_capacity;
    char *in;          /* the head, as far as it is there */
    size_t in_length;
    int status;
    int label;         /* -1: none */
    bool closes;       /* after this reply */
    uint64_t left;     /* LENGTH: of the body */
    uint64_t bytes;    /* of the body, so far */
    struct chunks chunks;
};

struct label {
    char name[LABEL_BYTES];
    long long count;
};

struct result {
    long long replies;
    long long errors;
    uint64_t bytes;
    long long statuses[STATUSES];
    struct label labels[MAX_LABELS];
    int labels_length;
    uint64_t *latencies_ns;
    size_t capacity;
};

struct load {
    const struct options *options;
    int epoll;
    struct connection *connections;
    int closed;   /* connections that wait to be opened again */
    char *buffer; /* of DROP_BYTES, of which only what chunks are read into is ever touched */
    long long sent;
    struct result result;
};

/* ---- the result ---- */

static void count_reply(struct result *result, const struct connection *connection)
{
    if ((size_t)result->replies == result->capacity) {
        result->capacity = 2 * result->capacity + 1024;
        result->latencies_ns = must(realloc(result->latencies_ns, result->capacity * sizeof *result->latencies_ns));
    }
    result->latencies_ns[result->replies++] = (uint64_t)(now_ns() - connection->began_ns);
    result->bytes += connection->bytes;
    result->statuses[connection->status]++;
    if (connection->label >= 0)
        result->labels[connection->label].count++;
}

/* Its number; -1 for one that is empty or one too many. What JSON would have to escape becomes an underscore. */
static int find_label(struct result *result, const char *value, size_t length)
{
    char name[LABEL_BYTES] = "";
    for (size_t i = 0; i < length && i < sizeof name - 1; i++)
        name[i] = isalnum((unsigned char)value[i]) || value[i] == '-' ? (char)tolower((unsigned char)value[i]) : '_';
    for (int i = 0; i < result->labels_length; i++)
        if (!strcmp(result->labels[i].name, name))
            return i;
    if (!*name || result->labels_length == MAX_LABELS)
        return -1;
    strcpy(result->labels[result->labels_length].name, name);
    return result->labels_length++;
}

static int compare(const void *one, const void *other)
{
    const uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return (a > b) - (a < b);
}

/* The smallest latency that so many percent of all do not exceed; they are sorted. */
static double percentile_ms(const struct result *result, long long percent)
{
    if (!result->replies)
        return 0;
    const long long rank = (result->replies * percent + 99) / 100;
    return (double)result->latencies_ns[rank ? rank - 1 : 0] / 1e6;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
           + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void print_result(struct result *result, double seconds)
{
    const double cpu = cpu_seconds(); /* sorting is not part of it */
    const char *comma = "";
    if (result->replies)
        qsort(result->latencies_ns, (size_t)result->replies, sizeof *result->latencies_ns, compare);
    printf("{\"replies\":%lld,\"errors\":%lld,\"seconds\":%.6f,\"rate\":%.3f,\"bytes\":%llu,\"statuses\":{",
           result->replies, result->errors, seconds, seconds > 0 ? (double)result->replies / seconds : 0.0,
           (unsigned long long)result->bytes);
    for (int status = 0; status < STATUSES; status++) {
        if (!result->statuses[status])
            continue;
        printf("%s\"%d\":%lld", comma, status, result->statuses[status]);
        comma = ",";
    }
    printf("},\"labels\":{");
    comma = "";
    for (int i = 0; i < result->labels_length; i++) {
        if (!result->labels[i].count)
            continue;
        printf("%s\"%s\":%lld", comma, result->labels[i].name, result->labels[i].count);
        comma = ",";
    }
    printf("},\"p50_ms\":%.4f,\"p90_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f,\"min_ms\":%.4f,\"cpu_seconds\":%.6f}\n",
           percentile_ms(result, 50), percentile_ms(result, 90), percentile_ms(result, 99), percentile_ms(result, 100),
           percentile_ms(result, 0), cpu);
    fflush(stdout);
}

/* ---- requests ---- */

/* Writes the body with each {n} replaced, and returns its length; `to` may be NULL to learn that. */
static size_t fill_in(const char *template, long long number, char *to)
{
    char digits[24];
    const size_t size = (size_t)snprintf(digits, sizeof digits, "%lld", number);
    size_t length = 0;
    while (*template) {
        const char *mark = strstr(template, "{n}");
        const size_t plain = mark ? (size_t)(mark - template) : strlen(template);
        if (to)
            memcpy(to + length, template, plain);
        length += plain;
        template += plain;
        if (!mark)
            break;
        if (to)
            memcpy(to + length, digits, size);
        length += size;
        template += 3;
    }
    return length;
}

static bool has_header(const char *headers, const char *name)
{
    const size_t size = strlen(name);
    for (const char *line = headers; *line; line = strchr(line, '\n') + 1)
        if (!strncasecmp(line, name, size) && line[size] == ':')
            return true;
    return false;
}

static void write_request(const struct options *options, struct connection *connection, long long turn)
{
    const long long number = options->start + (options->keys ? turn % options->keys : turn);
    const size_t body_length = fill_in(options->body, number, NULL);
    const size_t most = 256 + strlen(options->path) + strlen(options->headers) + body_length;
    if (most > connection->out_capacity) {
        connection->out = must(realloc(connection->out, most));
        connection->out_capacity = most;
    }
    char host[48] = "";
    if (!has_header(options->headers, "host"))
        snprintf(host, sizeof host, "host: 127.0.0.1:%d\r\n", options->port);
    const char *type = has_header(options->headers, "content-type") ? "" : "content-type: application/json\r\n";
    const int head = snprintf(connection->out, connection->out_capacity,
                              "POST %s HTTP/1.1\r\n%s%s%scontent-length: %zu\r\n\r\n", options->path, host, type,
                              options->headers, body_length);
    fill_in(options->body, number, connection->out + head);
    connection->out_length = (size_t)head + body_length;
    connection->out_sent = 0;
}

/* ---- connections ---- */

static void want(struct load *load, struct connection *connection, uint32_t interest)
{
    if (connection->interest == interest)
        return;
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    if (epoll_ctl(load->epoll, connection->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, connection->fd, &event))
        fail("epoll_ctl");
    connection->interest = interest;
}

static void shut(struct load *load, struct connection *connection, int64_t pause_ns)
{
    close(connection->fd);
    connection->fd = -1;
    connection->interest = 0;
    connection->in_length = 0;
    connection->stage = CLOSED;
    connection->open_ns = now_ns() + pause_ns;
    load->closed++;
}

static bool is_all_sent(const struct load *load)
{
    return load->options->count > 0 && load->sent >= load->options->count;
}

static bool is_done(const struct load *load)
{
    return load->options->count > 0 && load->result.replies + load->result.errors >= load->options->count;
}

/* What gets no whole reply is not repeated: it may have been billed. A connection that could not be opened uses up the
 * turn it was opened for, so that a count ends where there is no server. */
static void give_up(struct load *load, struct connection *connection)
{
    const bool has_turn = connection->stage != CONNECTING || !is_all_sent(load);
    load->sent += connection->stage == CONNECTING && has_turn;
    load->result.errors += has_turn;
    shut(load, connection, PAUSE_NS);
}

static void send_rest(struct load *load, struct connection *connection)
{
    const char *rest = connection->out + connection->out_sent;
    const ssize_t sent = send(connection->fd, rest, connection->out_length - connection->out_sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        give_up(load, connection);
        return;
    }
    connection->out_sent += sent > 0 ? (size_t)sent : 0;
    const bool is_sent = connection->out_sent == connection->out_length;
    connection->stage = is_sent ? HEAD : SENDING;
    want(load, connection, is_sent ? EPOLLIN : EPOLLOUT);
}

static void send_next(struct load *load, struct connection *connection)
{
    connection->in_length = 0;
    if (is_all_sent(load)) {
        connection->stage = IDLE;
        want(load, connection, EPOLLIN);
        return;
    }
    write_request(load->options, connection, load->sent++);
    connection->stage = SENDING;
    connection->began_ns = now_ns();
    send_rest(load, connection);
}

static void open_connection(struct load *load, struct connection *connection)
{
    const int one = 1;
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)load->options->port),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        fail("socket");
    load->closed--;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection->stage = CONNECTING;
    if (!connect(connection->fd, (const struct sockaddr *)&address, sizeof address) || errno == EINPROGRESS)
        want(load, connection, EPOLLOUT);
    else
        give_up(load, connection);
}

static void open_closed(struct load *load)
{
    if (!load->closed || is_all_sent(load))
        return;
    const int64_t now = now_ns();
    for (int i = 0; i < load->options->connections; i++)
        if (load->connections[i].stage == CLOSED && load->connections[i].open_ns <= now)
            open_connection(load, &load->connections[i]);
}

/* ---- replies ---- */

static void end_reply(struct load *load, struct connection *connection)
{
    count_reply(&load->result, connection);
    if (connection->closes)
        shut(load, connection, 0);
    else
        send_next(load, connection);
}

static int digit_of(char character)
{
    if (character >= '0' && character <= '9')
        return character - '0';
    const int letter = tolower((unsigned char)character);
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* The end of a chunk's size line. */
static void begin_chunk(struct chunks *chunks)
{
    chunks->line_length = 0;
    chunks->part = chunks->left ? DATA : TRAILER;
}

/* One byte outside of the data. False: these are no chunks. */
static bool read_chunk_byte(struct chunks *chunks, char byte)
{
    if (byte == '\r')
        return true;
    switch (chunks->part) {
    case SIZE:
        if (digit_of(byte) >= 0 && chunks->left <= UINT32_MAX) {
            chunks->left = chunks->left * 16 + (uint64_t)digit_of(byte);
            chunks->line_length++;
            return true;
        }
        if (!chunks->line_length || (byte != '\n' && byte != ';' && byte != ' '))
            return false;
        chunks->part = EXTENSION;
        /* fall through */
    case EXTENSION:
        if (byte == '\n')
            begin_chunk(chunks);
        return true;
    case DATA_END:
        *chunks = (struct chunks){.part = SIZE};
        return byte == '\n';
    default: /* TRAILER: an empty line is the end */
        chunks->is_last = byte == '\n' && !chunks->line_length;
        chunks->line_length = byte == '\n' ? 0 : chunks->line_length + 1;
        return true;
    }
}

/* How many bytes of payload there were; -1: these are no chunks, or something follows the last. */
static int64_t read_chunks(struct chunks *chunks, const char *data, size_t length)
{
    int64_t payload = 0;
    size_t at = 0;
    while (at < length) {
        if (chunks->is_last)
            return -1;
        if (chunks->part == DATA) {
            const size_t here = chunks->left < length - at ? (size_t)chunks->left : length - at;
            payload += (int64_t)here;
            at += here;
            chunks->left -= here;
            if (!chunks->left)
                chunks->part = DATA_END;
        } else if (!read_chunk_byte(chunks, data[at++])) {
            return -1;
        }
    }
    return payload;
}

/* What came of a body, `data` unless it was dropped. False: it breaks the rules. */
static bool take(struct connection *connection, const char *data, size_t length)
{
    if (connection->stage == CHUNKS) {
        const int64_t payload = read_chunks(&connection->chunks, data, length);
        connection->bytes += payload > 0 ? (uint64_t)payload : 0;
        return payload >= 0;
    }
    connection->bytes += length;
    if (connection->stage == TO_END)
        return true;
    if (length > connection->left)
        return false;
    connection->left -= length;
    return true;
}

static bool is_whole(const struct connection *connection)
{
    return connection->stage == CHUNKS ? connection->chunks.is_last : connection->stage == LENGTH && !connection->left;
}

static void take_or_give_up(struct load *load, struct connection *connection, const char *data, size_t length)
{
    if (!take(connection, data, length))
        give_up(load, connection);
    else if (is_whole(connection))
        end_reply(load, connection);
}

/* The value in a line "name: value" without blanks around it, or NULL. */
static const char *value_of(const char *line, const char *line_end, const char *name, size_t *length)
{
    const size_t size = strlen(name);
    if ((size_t)(line_end - line) <= size || line[size] != ':' || strncasecmp(line, name, size))
        return NULL;
    const char *value = line + size + 1;
    while (value < line_end && (*value == ' ' || *value == '\t'))
        value++;
    while (line_end > value && (line_end[-1] == ' ' || line_end[-1] == '\t'))
        line_end--;
    *length = (size_t)(line_end - value);
    return value;
}

static bool is_word(const char *value, size_t length, const char *word)
{
    return length == strlen(word) && !strncasecmp(value, word, length);
}

static void read_header(struct load *load, struct connection *connection, const char *line, const char *line_end)
{
    size_t length;
    const char *value;
    if ((value = value_of(line, line_end, "content-length", &length))) {
        if (connection->stage == TO_END)
            connection->stage = LENGTH;
        connection->left = strtoull(value, NULL, 10);
    } else if ((value = value_of(line, line_end, "transfer-encoding", &length))) {
        if (is_word(value, length, "chunked"))
            connection->stage = CHUNKS;
    } else if ((value = value_of(line, line_end, "connection", &length))) {
        if (is_word(value, length, "close"))
            connection->closes = true;
        else if (is_word(value, length, "keep-alive"))
            connection->closes = false;
    } else if ((value = value_of(line, line_end, "x-imagegate-cache", &length))
               || (connection->label < 0 && (value = value_of(line, line_end, "x-cache", &length)))) {
        connection->label = find_label(&load->result, value, length);
    }
}

/* Reads a head that ends before `blank`, its empty line. False: it is none. */
static bool read_head(struct load *load, struct connection *connection, const char *blank)
{
    const char *in = connection->in;
    connection->status = strncmp(in, "HTTP/1.", 7) || in[8] != ' ' ? 0 : atoi(in + 9);
    if (connection->status < 100 || connection->status >= STATUSES)
        return false;
    connection->stage = TO_END;
    connection->closes = in[7] == '0';
    connection->label = -1;
    connection->left = connection->bytes = 0;
    connection->chunks = (struct chunks){.part = SIZE};
    const char *line = memmem(in, connection->in_length, "\r\n", 2);
    while (line < blank) {
        const char *line_end = memmem(line + 2, (size_t)(blank - line), "\r\n", 2);
        read_header(load, connection, line + 2, line_end);
        line = line_end;
    }
    if (connection->status < 200 || connection->status == 204 || connection->status == 304) {
        connection->stage = LENGTH;
        connection->left = 0;
    }
    return true;
}

/* Looks for a whole head in what came, passes over interim ones (100 Continue), and goes on to the body. */
static void look_for_head(struct load *load, struct connection *connection)
{
    const char *blank;
    while ((blank = memmem(connection->in, connection->in_length, "\r\n\r\n", 4))) {
        if (!read_head(load, connection, blank)) {
            give_up(load, connection);
            return;
        }
        const size_t head_length = (size_t)(blank + 4 - connection->in);
        if (connection->status >= 200) {
            take_or_give_up(load, connection, blank + 4, connection->in_length - head_length);
            return;
        }
        connection->stage = HEAD;
        connection->in_length -= head_length;
        memmove(connection->in, blank + 4, connection->in_length + 1);
    }
    if (connection->in_length >= MAX_HEAD_BYTES)
        give_up(load, connection);
}

/* The server has closed, or the connection broke. */
static void end_of_connection(struct load *load, struct connection *connection, bool is_broken)
{
    if (connection->stage == IDLE) {
        shut(load, connection, 0);
    } else if (connection->stage == TO_END && !is_broken) {
        connection->closes = true;
        end_reply(load, connection);
    } else {
        give_up(load, connection);
    }
}

/* The next part of a body, by one recv: epoll tells if there is more, and none waits for another's whole reply. */
static ssize_t receive_body(struct load *load, struct connection *connection)
{
    if (connection->stage != LENGTH)
        return recv(connection->fd, load->buffer, CHUNK_BYTES, 0);
    const size_t most = connection->left < DROP_BYTES ? (size_t)connection->left : DROP_BYTES;
    return recv(connection->fd, load->buffer, most, MSG_TRUNC);
}

static ssize_t receive_head(struct connection *connection)
{
    const size_t room = MAX_HEAD_BYTES - connection->in_length;
    const size_t most = room < FIRST_BYTES ? room : FIRST_BYTES;
    const ssize_t count = recv(connection->fd, connection->in + connection->in_length, most, 0);
    if (count > 0) {
        connection->in_length += (size_t)count;
        connection->in[connection->in_length] = 0;
    }
    return count;
}

static void read_some(struct load *load, struct connection *connection)
{
    const bool is_body = connection->stage >= LENGTH;
    const ssize_t count = is_body ? receive_body(load, connection) : receive_head(connection);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0)
        end_of_connection(load, connection, count < 0);
    else if (is_body)
        take_or_give_up(load, connection, load->buffer, (size_t)count);
    else if (connection->stage == HEAD)
        look_for_head(load, connection);
    else
        shut(load, connection, 0); /* IDLE: nobody asked */
}

static void end_connecting(struct load *load, struct connection *connection)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        give_up(load, connection);
    else
        send_next(load, connection);
}

static void serve(struct load *load, struct connection *connection)
{
    if (connection->stage == CONNECTING)
        end_connecting(load, connection);
    else if (connection->stage == SENDING)
        send_rest(load, connection);
    else if (connection->stage != CLOSED)
        read_some(load, connection);
}

/* ---- the program ---- */

static int64_t nanoseconds(double seconds)
{
    return (int64_t)(seconds * 1e9);
}

/* Milliseconds for epoll, rounded up. */
static int milliseconds_until(const struct load *load, int64_t end_ns)
{
    int64_t left_ns = end_ns - now_ns();
    if (load->closed && !is_all_sent(load) && left_ns > PAUSE_NS)
        left_ns = PAUSE_NS;
    return left_ns <= 0 ? 0 : (int)((left_ns + 999999) / 1000000);
}

static void run(struct load *load, int64_t end_ns, const sigset_t *while_waiting)
{
    struct epoll_event events[EVENTS];
    while (!is_ended && !is_done(load) && now_ns() < end_ns) {
        open_closed(load);
        const int count = epoll_pwait(load->epoll, events, EVENTS, milliseconds_until(load, end_ns), while_waiting);
        for (int i = 0; i < count; i++)
            serve(load, events[i].data.ptr);
    }
}

static void prepare(struct load *load, const struct options *options)
{
    *load = (struct load){.options = options, .epoll = epoll_create1(EPOLL_CLOEXEC), .closed = options->connections};
    load->buffer = must(malloc(DROP_BYTES));
    load->connections = must(calloc((size_t)options->connections, sizeof *load->connections));
    for (int i = 0; i < options->connections; i++) {
        load->connections[i].fd = -1;
        load->connections[i].in = must(malloc(MAX_HEAD_BYTES + 1));
    }
}

static void clear(struct load *load)
{
    for (int i = 0; i < load->options->connections; i++) {
        if (load->connections[i].fd >= 0)
            close(load->connections[i].fd);
        free(load->connections[i].in);
        free(load->connections[i].out);
    }
    free(load->connections);
    free(load->buffer);
    free(load->result.latencies_ns);
    close(load->epoll);
}

/* Nothing is read meanwhile: what is under way stays where it is. */
static void hold(int64_t until_ns, const sigset_t *while_waiting)
{
    const int64_t left_ns = until_ns - now_ns();
    const struct timespec left = {.tv_sec = left_ns / SECOND_NS, .tv_nsec = left_ns % SECOND_NS};
    if (left_ns > 0)
        ppoll(NULL, 0, &left, while_waiting);
}

static void measure(const struct options *options)
{
    const sigset_t while_waiting = block_signals();
    struct load load;
    prepare(&load, options);
    const int64_t began_ns = now_ns();
    const int64_t timeout_ns = began_ns + nanoseconds(options->timeout);
    int64_t end_ns = timeout_ns;
    if (options->seconds > 0 && options->seconds < options->timeout)
        end_ns = began_ns + nanoseconds(options->seconds);
    run(&load, end_ns, &while_waiting);
    print_result(&load.result, (double)(now_ns() - began_ns) / 1e9);
    if (options->holds && !is_ended)
        hold(timeout_ns, &while_waiting);
    clear(&load);
}

static void usage(void)
{
    fprintf(stderr, "usage: load --port N --connections C (--seconds S | --count N) --body TEXT [--path P]\n"
                    "            [--header 'name: value']... [--keys K] [--start N] [--timeout S] [--hold]\n");
    exit(2);
}

static char *add_header(char *headers, const char *line)
{
    const size_t length = strlen(headers);
    headers = must(realloc(headers, length + strlen(line) + 3));
    sprintf(headers + length, "%s\r\n", line);
    return headers;
}

static void set_option(struct options *options, int letter, const char *value)
{
    switch (letter) {
    case 'p': options->port = atoi(value); break;
    case 'c': options->connections = atoi(value); break;
    case 's': options->seconds = atof(value); break;
    case 'n': options->count = atoll(value); break;
    case 'u': options->path = value; break;
    case 'h': options->headers = add_header(options->headers, value); break;
    case 'b': options->body = value; break;
    case 'k': options->keys = atoll(value); break;
    case 'i': options->start = atoll(value); break;
    case 't': options->timeout = atof(value); break;
    case 'o': options->holds = true; break;
    default: usage();
    }
}

static void read_options(struct options *options, int count, char **words)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},    {"connections", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 's'}, {"count", required_argument, NULL, 'n'},
        {"path", required_argument, NULL, 'u'},    {"header", required_argument, NULL, 'h'},
        {"body", required_argument, NULL, 'b'},    {"keys", required_argument, NULL, 'k'},
        {"start", required_argument, NULL, 'i'},   {"timeout", required_argument, NULL, 't'},
        {"hold", no_argument, NULL, 'o'},          {NULL, 0, NULL, 0},
    };
    int letter;
    while ((letter = getopt_long(count, words, "", known, NULL)) != -1)
        set_option(options, letter, optarg);
    const bool has_end = options->seconds > 0 || options->count > 0;
    if (optind < count || options->port <= 0 || options->port > 65535 || options->connections <= 0 || !options->body
        || !has_end || options->keys < 0 || options->timeout <= 0)
        usage();
}

int main(int count, char **words)
{
    struct options options = {.path = "/v1/images/generations", .timeout = 60};
    options.headers = must(calloc(1, 1));
    read_options(&options, count, words);
    raise_descriptor_limit();
    measure(&options);
    free(options.headers);
    return 0;
}
