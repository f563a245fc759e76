/* The client of the benchmarks: it measures where it hurts, at the reader's end of the socket.
 *
 * One thread, one epoll, keep-alive connections. Closed loop: each of C connections asks again as soon as it was
 * answered. Open loop (--rate): requests are due at fixed instants, whether or not the server keeps up, and are timed
 * from the instant they were due, so a stall is charged to every request that it delays (no coordinated omission).
 *
 * It understands what it reads: content-length and chunked bodies, and in a stream the tokens `~NNNNNNNNNNNNNNNNNNN~`
 * that upstream.c writes, which hold their own send time. So per request: time to first token, gaps between tokens,
 * each token's transit from the upstream's send to here, total. An answer counts only if its status is 200, it repeats
 * the request's nonce, it has all its tokens and it ends as its dialect ends. Anything else is an error, by kind.
 *
 * The body comes from a file in which 16 bytes `@@@@@@@@@@@@@@@@` stand for the nonce: --nonce unique makes each
 * request a question never asked before (a cache misses), --nonce cycle=K repeats K questions (a cache hits).
 *
 * Bounded three ways: --count requests, --duration-s seconds, then --drain-s to let the last answers end.
 * It prints one JSON object. All times in it are microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { NONCE = 16, STAMP = 19, HEAD = 16384, KEEP = 4096, TAIL = 64, READ = 65536, MAX_SAMPLES = 1 << 22 };

/* ---- samples -------------------------------------------------------------------------------------------------- */

typedef struct {
  uint64_t *ns;
  size_t kept, capacity;
  uint64_t seen;
} Samples;

static uint64_t random_state = 88172645463325252ull;

static uint64_t random_u64(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

/* Keep every sample up to MAX_SAMPLES, from there a uniform reservoir of them. */
static void sample(Samples *s, int64_t ns) {
  uint64_t value = ns > 0 ? (uint64_t)ns : 0;
  s->seen++;
  if (s->kept == MAX_SAMPLES) {
    uint64_t at = random_u64() % s->seen;
    if (at < MAX_SAMPLES) s->ns[at] = value;
    return;
  }
  if (s->kept == s->capacity) {
    s->capacity = s->capacity ? s->capacity * 2 : 4096;
    s->ns = realloc(s->ns, s->capacity * sizeof *s->ns);
    if (!s->ns) abort();
  }
  s->ns[s->kept++] = value;
}

static int ascending(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* Nearest rank: the smallest sample that at least the share q of them does not exceed. */
static double quantile_us(const Samples *s, double q) {
  size_t rank = (size_t)(q * (double)s->kept + 0.999999);
  if (rank < 1) rank = 1;
  if (rank > s->kept) rank = s->kept;
  return (double)s->ns[rank - 1] / 1e3;
}

static void print_samples(const char *name, Samples *s) {
  if (!s->kept) {
    printf(",\"%s\":null", name);
    return;
  }
  qsort(s->ns, s->kept, sizeof *s->ns, ascending);
  double sum = 0;
  for (size_t i = 0; i < s->kept; i++) sum += (double)s->ns[i];
  printf(",\"%s\":{\"n\":%llu,\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", name,
         (unsigned long long)s->seen, sum / (double)s->kept / 1e3, quantile_us(s, 0.5), quantile_us(s, 0.9),
         quantile_us(s, 0.99), quantile_us(s, 0.999), (double)s->ns[s->kept - 1] / 1e3);
}

/* ---- state ---------------------------------------------------------------------------------------------------- */

typedef enum { IDLE, CONNECTING, HEADERS, BODY } Phase;
typedef enum { BY_LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, BY_CLOSE } Framing;

typedef struct {
  int fd;
  Phase phase;
  Framing framing;
  uint64_t due_ns, last_ns;
  size_t sent;
  char *request;
  char nonce[NONCE + 1];
  char head[HEAD];
  size_t head_n;
  int status;
  bool close_after;
  uint64_t left; /* bytes of the body or of the chunk */
  int chunk_digits;
  size_t trailer_line;
  char keep[KEEP]; /* the body's start, in which the nonce must stand */
  size_t keep_n;
  char tail[TAIL]; /* the body's end, in which the dialect's last words must stand */
  size_t tail_n, body_bytes;
  bool nonce_seen;
  int tokens, stamp_digits;
  uint64_t stamp;
  uint64_t start_at_ns;
} Conn;

static struct {
  const char *host, *path, *body_file, *last_words, *headers;
  int port, concurrency, tokens, cycle;
  uint64_t count;
  double duration_s, warmup_s, drain_s, timeout_s, rate, spread_s;
  bool check_nonce;
} opt = {.host = "127.0.0.1", .path = "/v1/chat/completions", .headers = "", .concurrency = 1, .duration_s = 1, .drain_s = 2,
         .timeout_s = 30, .check_nonce = true};

static struct {
  uint64_t started, ok, window_ok, tokens, window_tokens, bytes, connects;
  uint64_t refused, status, closed, timeout, wrong, truncated, malformed;
  int last_bad_status;
  char example[256];
} stats;

static Samples total, first, gap, transit;
static Conn *conns;
static char *template;
static size_t template_n, nonce_at;
static int epoll_fd, rate_fd;
static uint64_t nonce_base, begin_ns, warm_ns, stop_ns, next_due_ns, last_done_ns;
static bool stopping;
static int busy;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void build_template(void) {
  FILE *f = fopen(opt.body_file, "rb");
  if (!f) fail(opt.body_file);
  static char body[1 << 22];
  size_t n = fread(body, 1, sizeof body, f);
  fclose(f);
  template = malloc(n + 4096 + strlen(opt.headers));
  if (!template) fail("malloc");
  template_n = (size_t)sprintf(template,
                               "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\n"
                               "Accept: application/json, text/event-stream\r\n%sContent-Length: %zu\r\n\r\n",
                               opt.path, opt.host, opt.port, opt.headers, n);
  memcpy(template + template_n, body, n);
  char *mark = memmem(template + template_n, n, "@@@@@@@@@@@@@@@@", NONCE);
  nonce_at = mark ? (size_t)(mark - template) : 0;
  template_n += n;
}

static void arm_connection(Conn *c, uint32_t events, int operation) {
  struct epoll_event event = {.events = events, .data.u32 = (uint32_t)(c - conns)};
  epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static bool may_start(void) {
  return !stopping && (!opt.count || stats.started < opt.count) && now_ns() < stop_ns;
}

static void finish(Conn *c, bool reusable) {
  c->phase = IDLE;
  busy--;
  last_done_ns = now_ns();
  if (!reusable && c->fd >= 0) {
    close(c->fd);
    c->fd = -1;
  }
}

static void note(uint64_t *kind, const Conn *c) {
  (*kind)++;
  if (!stats.example[0]) {
    size_t n = c->keep_n < sizeof stats.example - 1 ? c->keep_n : sizeof stats.example - 1;
    memcpy(stats.example, c->keep, n);
    stats.example[n] = 0;
  }
}

static bool push(Conn *c) {
  while (c->sent < template_n) {
    ssize_t n = send(c->fd, c->request + c->sent, template_n - c->sent, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) {
        arm_connection(c, EPOLLIN | EPOLLOUT | EPOLLRDHUP, EPOLL_CTL_MOD);
        return true;
      }
      note(&stats.closed, c);
      finish(c, false);
      return false;
    }
    c->sent += (size_t)n;
  }
  return true;
}

static bool open_socket(Conn *c) {
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) fail("socket");
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
  inet_pton(AF_INET, opt.host, &address.sin_addr);
  stats.connects++;
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
    note(&stats.refused, c);
    finish(c, false);
    return false;
  }
  c->phase = CONNECTING;
  arm_connection(c, EPOLLIN | EPOLLOUT | EPOLLRDHUP, EPOLL_CTL_ADD);
  return true;
}

static void begin(Conn *c, uint64_t due_ns) {
  uint64_t serial = stats.started++;
  busy++;
  c->due_ns = due_ns;
  c->last_ns = 0;
  c->sent = c->head_n = c->keep_n = c->tail_n = c->body_bytes = 0;
  c->status = c->tokens = 0;
  c->stamp_digits = -1;
  c->close_after = c->nonce_seen = false;
  if (opt.cycle) serial %= (uint64_t)opt.cycle;
  snprintf(c->nonce, sizeof c->nonce, "%016llx", (unsigned long long)(nonce_base + serial));
  if (nonce_at) memcpy(c->request + nonce_at, c->nonce, NONCE);
  c->phase = HEADERS;
  if (c->fd < 0)
    open_socket(c);
  else
    push(c);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void on_token(Conn *c, uint64_t now) {
  if (opt.tokens && c->tokens >= opt.tokens) return; /* closing events may repeat the text */
  c->tokens++;
  stats.tokens++;
  if (now >= warm_ns && now < stop_ns) stats.window_tokens++;
  if (now >= warm_ns) {
    if (c->tokens == 1)
      sample(&first, (int64_t)(now - c->due_ns));
    else
      sample(&gap, (int64_t)(now - c->last_ns));
    sample(&transit, (int64_t)(now - c->stamp));
  }
  c->last_ns = now;
}

/* Find the stamped tokens, wherever reads or frames may have cut them. */
static void scan_tokens(Conn *c, const char *bytes, size_t n, uint64_t now) {
  const char *at = bytes, *end = bytes + n;
  while (at < end) {
    if (c->stamp_digits < 0) {
      at = memchr(at, '~', (size_t)(end - at));
      if (!at) return;
      c->stamp_digits = 0;
      c->stamp = 0;
      at++;
      continue;
    }
    if (*at >= '0' && *at <= '9' && c->stamp_digits < STAMP) {
      c->stamp = c->stamp * 10 + (uint64_t)(*at - '0');
      c->stamp_digits++;
    } else if (*at == '~' && c->stamp_digits == STAMP) {
      on_token(c, now);
      c->stamp_digits = -1;
    } else {
      c->stamp_digits = -1;
    }
    at++;
  }
}

static void take_body(Conn *c, const char *bytes, size_t n, uint64_t now) {
  c->body_bytes += n;
  stats.bytes += n;
  if (!c->nonce_seen && c->keep_n < KEEP) {
    size_t room = KEEP - c->keep_n, take = n < room ? n : room;
    memcpy(c->keep + c->keep_n, bytes, take);
    c->keep_n += take;
    if (!opt.check_nonce || memmem(c->keep, c->keep_n, c->nonce, NONCE)) c->nonce_seen = true;
  }
  if (n >= TAIL) {
    memcpy(c->tail, bytes + n - TAIL, TAIL);
    c->tail_n = TAIL;
  } else {
    size_t old = c->tail_n + n > TAIL ? TAIL - n : c->tail_n;
    memmove(c->tail, c->tail + c->tail_n - old, old);
    memcpy(c->tail + old, bytes, n);
    c->tail_n = old + n;
  }
  if (opt.tokens) scan_tokens(c, bytes, n, now);
}

static void complete(Conn *c, uint64_t now) {
  if (c->status != 200) {
    stats.last_bad_status = c->status;
    note(&stats.status, c);
  } else if (opt.check_nonce && !c->nonce_seen) {
    note(&stats.wrong, c);
  } else if ((opt.tokens && c->tokens != opt.tokens) ||
             (opt.last_words && !memmem(c->tail, c->tail_n, opt.last_words, strlen(opt.last_words)))) {
    note(&stats.truncated, c);
  } else {
    /* Rates count what ended inside the window. Times also count what ended after it: leaving out what was still
     * under way would leave out the slowest. */
    stats.ok++;
    if (now >= warm_ns && now < stop_ns) stats.window_ok++;
    if (now >= warm_ns) sample(&total, (int64_t)(now - c->due_ns));
  }
  finish(c, !c->close_after && c->framing != BY_CLOSE);
}

static void malformed(Conn *c) {
  note(&stats.malformed, c);
  finish(c, false);
}

static const char *field(const char *head, const char *name) {
  size_t n = strlen(name);
  for (const char *line = strchr(head, '\n'); line; line = strchr(line, '\n')) {
    line++;
    if (strncasecmp(line, name, n) == 0) return line + n + strspn(line + n, " ");
  }
  return NULL;
}

/* Read the head. Returns the bytes taken of `bytes`, or -1 when the answer is no HTTP. */
static long take_head(Conn *c, const char *bytes, size_t n) {
  size_t before = c->head_n, room = HEAD - 1 - c->head_n, take = n < room ? n : room;
  memcpy(c->head + c->head_n, bytes, take);
  c->head_n += take;
  char *blank = memmem(c->head, c->head_n, "\r\n\r\n", 4);
  if (!blank) return c->head_n >= HEAD - 1 ? -1 : (long)take;
  blank[2] = 0;
  if (strncmp(c->head, "HTTP/1.", 7) != 0) return -1;
  c->status = atoi(c->head + 9);
  const char *length = field(c->head, "content-length:"), *coding = field(c->head, "transfer-encoding:");
  const char *connection = field(c->head, "connection:");
  c->close_after = connection && strncasecmp(connection, "close", 5) == 0;
  if (coding && strncasecmp(coding, "chunked", 7) == 0) {
    c->framing = CHUNK_SIZE;
    c->left = 0;
    c->chunk_digits = 0;
  } else if (length) {
    c->framing = BY_LENGTH;
    c->left = strtoull(length, NULL, 10);
  } else {
    c->framing = BY_CLOSE;
  }
  c->phase = BODY;
  return (long)((size_t)(blank + 4 - c->head) - before);
}

static int hex(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  digit |= 0x20;
  return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Feed what one read brought. */
static void feed(Conn *c, const char *bytes, size_t n, uint64_t now) {
  const char *end = bytes + n;
  if (c->phase == HEADERS) {
    long taken = take_head(c, bytes, n);
    if (taken < 0) return malformed(c);
    bytes += taken;
    if (c->phase == BODY && c->framing == BY_LENGTH && c->left == 0) return complete(c, now);
  }
  while (bytes < end && c->phase == BODY) {
    size_t available = (size_t)(end - bytes);
    switch (c->framing) {
      case BY_CLOSE:
        take_body(c, bytes, available, now);
        bytes = end;
        break;
      case BY_LENGTH:
      case CHUNK_DATA: {
        size_t take = available < c->left ? available : (size_t)c->left;
        take_body(c, bytes, take, now);
        bytes += take;
        c->left -= take;
        if (c->left == 0) {
          if (c->framing == BY_LENGTH) return complete(c, now);
          c->framing = CHUNK_END;
        }
        break;
      }
      case CHUNK_END:
        if (*bytes++ == '\n') {
          c->framing = CHUNK_SIZE;
          c->chunk_digits = 0;
        }
        break;
      case CHUNK_SIZE: {
        char digit = *bytes++;
        if (digit == '\n') {
          if (c->chunk_digits == 0) return malformed(c);
          c->framing = c->left ? CHUNK_DATA : TRAILER;
          c->trailer_line = 0;
        } else if (hex(digit) >= 0 && c->chunk_digits >= 0 && c->chunk_digits < 15) {
          c->left = c->left * 16 + (uint64_t)hex(digit);
          c->chunk_digits++;
        } else if (digit != '\r' && digit != ';' && digit != ' ') {
          return malformed(c);
        }
        break;
      }
      case TRAILER: {
        char byte = *bytes++;
        if (byte == '\n') {
          if (c->trailer_line == 0) return complete(c, now);
          c->trailer_line = 0;
        } else if (byte != '\r') {
          c->trailer_line++;
        }
        break;
      }
    }
  }
}

static void on_readable(Conn *c) {
  static char bytes[READ];
  for (;;) {
    ssize_t n = recv(c->fd, bytes, READ, 0);
    if (n < 0 && errno == EAGAIN) return;
    uint64_t now = now_ns();
    if (n <= 0) {
      if (c->phase == IDLE) {
        close(c->fd); /* the server closed an idle connection: its right */
        c->fd = -1;
      } else if (n == 0 && c->phase == BODY && c->framing == BY_CLOSE) {
        complete(c, now);
      } else {
        note(&stats.closed, c);
        finish(c, false);
      }
      return;
    }
    if (c->phase == IDLE) { /* bytes that nobody asked for */
      note(&stats.malformed, c);
      close(c->fd);
      c->fd = -1;
      return;
    }
    feed(c, bytes, (size_t)n, now);
    if (c->fd < 0 || n < READ) return;
  }
}

/* ---- the loop ------------------------------------------------------------------------------------------------- */

static void arm_rate(void) {
  struct itimerspec spec = {.it_value = {(time_t)(next_due_ns / 1000000000ull), (long)(next_due_ns % 1000000000ull)}};
  timerfd_settime(rate_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Open loop: give what is due to idle connections. What finds none waits, and its clock runs. */
static void start_due(void) {
  uint64_t now = now_ns();
  static int at;
  for (int looked = 0; next_due_ns <= now && looked < opt.concurrency; looked++) {
    at = (at + 1) % opt.concurrency;
    if (conns[at].phase != IDLE) continue;
    if (!may_start()) return;
    begin(&conns[at], next_due_ns);
    next_due_ns += (uint64_t)(1e9 / opt.rate);
  }
  if (next_due_ns > now) arm_rate();
}

/* Closed loop: ask again, but first let an idle connection's planned start come. */
static void restart(Conn *c) {
  if (opt.rate > 0) {
    if (next_due_ns <= now_ns()) start_due();
    return;
  }
  uint64_t now = now_ns();
  if (c->phase == IDLE && now >= c->start_at_ns && may_start()) begin(c, now);
}

static void on_event(struct epoll_event *event) {
  Conn *c = &conns[event->data.u32];
  if (c->fd < 0) return;
  if (c->phase == CONNECTING && (event->events & (EPOLLERR | EPOLLHUP | EPOLLOUT))) {
    int error = 0;
    socklen_t n = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n);
    if (error) {
      note(&stats.refused, c);
      finish(c, false);
      return;
    }
    c->phase = HEADERS;
    arm_connection(c, EPOLLIN | EPOLLRDHUP, EPOLL_CTL_MOD);
    push(c);
    return;
  }
  if (event->events & EPOLLOUT) {
    arm_connection(c, EPOLLIN | EPOLLRDHUP, EPOLL_CTL_MOD);
    if (!push(c)) return;
  }
  if (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) on_readable(c);
  if (c->phase == IDLE) restart(c);
}

static void run(void) {
  struct epoll_event events[512];
  uint64_t drain_end = stop_ns + (uint64_t)(opt.drain_s * 1e9), swept = begin_ns;
  for (;;) {
    uint64_t now = now_ns();
    if (now >= stop_ns || (opt.count && stats.started >= opt.count)) stopping = true;
    if ((stopping && busy == 0) || now >= drain_end) break;
    bool starts_to_come = opt.spread_s > 0 && now < begin_ns + (uint64_t)(opt.spread_s * 1e9) + 1000000;
    int n = epoll_wait(epoll_fd, events, 512, starts_to_come ? 1 : 20);
    for (int i = 0; i < n; i++) {
      if (events[i].data.u32 == UINT32_MAX) {
        uint64_t expirations;
        if (read(rate_fd, &expirations, sizeof expirations) > 0) start_due();
      } else {
        on_event(&events[i]);
      }
    }
    now = now_ns();
    if (now - swept < (starts_to_come ? 1000000ull : 20000000ull)) continue;
    swept = now;
    for (int i = 0; i < opt.concurrency; i++) {
      Conn *c = &conns[i];
      if (c->phase == IDLE) {
        restart(c);
      } else if (now > c->due_ns + (uint64_t)(opt.timeout_s * 1e9)) {
        note(&stats.timeout, c);
        finish(c, false);
      }
    }
  }
}

static void print_json(void) {
  /* A run that --count ends early has a shorter window. */
  uint64_t end_ns = opt.count && last_done_ns < stop_ns ? last_done_ns : stop_ns;
  double window_s = (double)(end_ns > warm_ns ? end_ns - warm_ns : 1) / 1e9;
  double whole_s = (double)((last_done_ns > begin_ns ? last_done_ns : begin_ns + 1) - begin_ns) / 1e9;
  uint64_t errors = stats.refused + stats.status + stats.closed + stats.timeout + stats.wrong + stats.truncated + stats.malformed;
  printf("{\"started\":%llu,\"ok\":%llu,\"unfinished\":%d,\"tokens\":%llu,\"bytes\":%llu,\"connects\":%llu",
         (unsigned long long)stats.started, (unsigned long long)stats.ok, busy,
         (unsigned long long)stats.tokens, (unsigned long long)stats.bytes, (unsigned long long)stats.connects);
  printf(",\"elapsed_s\":%.6f,\"rps\":%.3f,\"tokens_per_s\":%.3f", whole_s, (double)stats.window_ok / window_s,
         (double)stats.window_tokens / window_s);
  printf(",\"errors\":%llu,\"errors_by_kind\":{\"refused\":%llu,\"status\":%llu,\"closed\":%llu,\"timeout\":%llu,"
         "\"wrong_answer\":%llu,\"truncated\":%llu,\"malformed\":%llu},\"last_bad_status\":%d,\"example\":\"",
         (unsigned long long)errors, (unsigned long long)stats.refused, (unsigned long long)stats.status,
         (unsigned long long)stats.closed, (unsigned long long)stats.timeout, (unsigned long long)stats.wrong,
         (unsigned long long)stats.truncated, (unsigned long long)stats.malformed, stats.last_bad_status);
  for (const unsigned char *p = (unsigned char *)stats.example; *p; p++) {
    if (*p < 32 || *p > 126 || *p == '"' || *p == '\\')
      printf("\\u%04x", *p);
    else
      putchar(*p);
  }
  printf("\"");
  print_samples("total_us", &total);
  print_samples("ttft_us", &first);
  print_samples("gap_us", &gap);
  print_samples("transit_us", &transit);
  printf("}\n");
}

/* Turn `\n`-separated header lines into what the head of a request needs. */
static const char *header_lines(const char *given) {
  char *lines = malloc(2 * strlen(given) + 3), *to = lines;
  if (!lines) fail("malloc");
  for (const char *from = given; *from; from++) {
    if (*from == '\n') *to++ = '\r';
    *to++ = *from;
  }
  if (to > lines && to[-1] != '\n') *to++ = '\r', *to++ = '\n';
  *to = 0;
  return lines;
}

static void read_options(int argc, char **argv) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const char *name = argv[i], *value = argv[i + 1];
    if (!strcmp(name, "--port")) opt.port = atoi(value);
    else if (!strcmp(name, "--path")) opt.path = value;
    else if (!strcmp(name, "--body")) opt.body_file = value;
    else if (!strcmp(name, "--headers")) opt.headers = header_lines(value);
    else if (!strcmp(name, "--concurrency")) opt.concurrency = atoi(value);
    else if (!strcmp(name, "--count")) opt.count = strtoull(value, NULL, 10);
    else if (!strcmp(name, "--duration-s")) opt.duration_s = atof(value);
    else if (!strcmp(name, "--warmup-s")) opt.warmup_s = atof(value);
    else if (!strcmp(name, "--drain-s")) opt.drain_s = atof(value);
    else if (!strcmp(name, "--timeout-s")) opt.timeout_s = atof(value);
    else if (!strcmp(name, "--rate")) opt.rate = atof(value);
    else if (!strcmp(name, "--spread-s")) opt.spread_s = atof(value);
    else if (!strcmp(name, "--tokens")) opt.tokens = atoi(value);
    else if (!strcmp(name, "--last-words")) opt.last_words = value;
    else if (!strcmp(name, "--nonce-base")) nonce_base = strtoull(value, NULL, 10);
    else if (!strcmp(name, "--nonce")) opt.cycle = strncmp(value, "cycle=", 6) ? 0 : atoi(value + 6);
    else if (!strcmp(name, "--check-nonce")) opt.check_nonce = atoi(value);
    else {
      fprintf(stderr, "loadgen: unknown option %s\n", name);
      exit(2);
    }
  }
  if (!opt.port || !opt.body_file || opt.concurrency < 1) {
    fprintf(stderr, "loadgen: --port and --body are needed, --concurrency is 1 or more\n");
    exit(2);
  }
}

int main(int argc, char **argv) {
  read_options(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  build_template();
  conns = calloc((size_t)opt.concurrency, sizeof *conns);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  rate_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (!conns || epoll_fd < 0 || rate_fd < 0) fail("setup");
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, rate_fd, &event);
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  if (!nonce_base) nonce_base = ((uint64_t)wall.tv_sec << 28) ^ (uint64_t)wall.tv_nsec; /* never asked before */
  begin_ns = last_done_ns = now_ns();
  warm_ns = begin_ns + (uint64_t)(opt.warmup_s * 1e9);
  stop_ns = warm_ns + (uint64_t)(opt.duration_s * 1e9);
  for (int i = 0; i < opt.concurrency; i++) {
    conns[i].fd = -1;
    conns[i].request = malloc(template_n);
    if (!conns[i].request) fail("malloc");
    memcpy(conns[i].request, template, template_n);
    conns[i].start_at_ns = begin_ns + (uint64_t)(opt.spread_s * 1e9 * i / opt.concurrency);
  }
  next_due_ns = begin_ns;
  if (opt.rate > 0)
    start_due();
  else
    for (int i = 0; i < opt.concurrency; i++) restart(&conns[i]);
  run();
  print_json();
  return 0;
}
