/* A model server with no model: the upstream of the benchmarks.
 *
 * Goal: answer so fast, and so evenly, that what a client measures through a gateway is the gateway. One thread, one
 * epoll, no allocation per token. It speaks OpenAI chat completions, OpenAI responses (text only) and Anthropic
 * messages, as JSON and as server-sent events, in frames that the official SDKs parse, usage included.
 *
 * What it does is chosen by the model's name: `mock-t5-n40-g20-s700` waits 5 ms before the first token, sends 40
 * tokens, 20 ms apart, and pads the text of a JSON answer to 700 bytes. Every field is optional.
 *
 * Every streamed token is `~NNNNNNNNNNNNNNNNNNN~`, the CLOCK_MONOTONIC nanosecond at which it was handed to the kernel,
 * so a client on the same machine knows each token's transit time through whatever stands between. If the prompt holds
 * `nonce=` and 16 digits, the answer repeats them, so a client knows that an answer is the answer to its own question.
 *
 * GET /stats tells the requests, tokens, connections, and `aborted`: answers whose reader left before their end.
 *
 * Usage: upstream [--port N] [--max-s N]; prints `listening PORT`. It dies with its parent and after --max-s.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
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

enum { MAX_FD = 65536, MAX_REQUEST = 64 << 20, MAX_MODEL = 128, MAX_TEXT = 1 << 20, NONCE = 16, TOKEN_BYTES = 22 };

typedef enum { CHAT, RESPONSES, MESSAGES } Dialect;

typedef struct {
  char *bytes;
  size_t start, end, capacity;
} Buffer;

typedef struct {
  int fd;
  uint32_t generation; /* a timer set for an earlier request of this slot is void */
  Buffer in, out;
  bool answering, streaming, writable_wanted, peer_gone, close_after;
  Dialect dialect;
  bool usage_wanted;
  char model[MAX_MODEL];
  char nonce[NONCE + 1];
  int prompt_tokens, tokens, tokens_sent, ttft_ms, gap_ms, size;
  uint64_t next_ns, serial;
  Buffer text; /* what a responses stream said so far: its closing events repeat it */
  int sequence;
} Conn;

typedef struct {
  uint64_t at_ns;
  int fd;
  uint32_t generation;
} Timer;

static Conn *conns[MAX_FD];
static Timer *timers;
static size_t timer_count, timer_capacity;
static int epoll_fd, timer_fd;
static uint64_t stat_requests, stat_tokens, stat_aborted, stat_connections, stat_bad, next_serial = 1;
static char padding[MAX_TEXT + 1];

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* ---- buffers ------------------------------------------------------------------------------------------------- */

static void reserve(Buffer *b, size_t more) {
  if (b->start == b->end) b->start = b->end = 0;
  if (b->end + more <= b->capacity) return;
  if (b->start > 0) {
    memmove(b->bytes, b->bytes + b->start, b->end - b->start);
    b->end -= b->start;
    b->start = 0;
    if (b->end + more <= b->capacity) return;
  }
  size_t capacity = b->capacity ? b->capacity : 4096;
  while (capacity < b->end + more) capacity *= 2;
  b->bytes = realloc(b->bytes, capacity);
  if (!b->bytes) die("realloc");
  b->capacity = capacity;
}

static void put(Buffer *b, const char *bytes, size_t n) {
  reserve(b, n);
  memcpy(b->bytes + b->end, bytes, n);
  b->end += n;
}

__attribute__((format(printf, 2, 3))) static void putf(Buffer *b, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, format, args);
  reserve(b, (size_t)n + 1);
  vsnprintf(b->bytes + b->end, (size_t)n + 1, format, again);
  b->end += (size_t)n;
  va_end(args);
  va_end(again);
}

/* ---- timers: a binary heap under one timerfd ------------------------------------------------------------------ */

static void arm(void) {
  struct itimerspec spec = {0};
  if (timer_count) {
    spec.it_value.tv_sec = (time_t)(timers[0].at_ns / 1000000000ull);
    spec.it_value.tv_nsec = (long)(timers[0].at_ns % 1000000000ull);
  }
  timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void timer_push(uint64_t at_ns, int fd, uint32_t generation) {
  if (timer_count == timer_capacity) {
    timer_capacity = timer_capacity ? timer_capacity * 2 : 1024;
    timers = realloc(timers, timer_capacity * sizeof *timers);
    if (!timers) die("realloc");
  }
  size_t i = timer_count++;
  while (i && timers[(i - 1) / 2].at_ns > at_ns) {
    timers[i] = timers[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  timers[i] = (Timer){at_ns, fd, generation};
  if (i == 0) arm();
}

static Timer timer_pop(void) {
  Timer top = timers[0], last = timers[--timer_count];
  size_t i = 0;
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= timer_count) break;
    if (child + 1 < timer_count && timers[child + 1].at_ns < timers[child].at_ns) child++;
    if (timers[child].at_ns >= last.at_ns) break;
    timers[i] = timers[child];
    i = child;
  }
  if (timer_count) timers[i] = last;
  return top;
}

/* ---- connections ---------------------------------------------------------------------------------------------- */

static void drop(Conn *c) {
  if (c->answering) stat_aborted++;
  close(c->fd);
  c->fd = -1;
  c->generation++;
  c->in.start = c->in.end = c->out.start = c->out.end = c->text.start = c->text.end = 0;
  c->answering = false;
}

static void watch(Conn *c, bool writable) {
  if (writable == c->writable_wanted) return;
  c->writable_wanted = writable;
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | (writable ? EPOLLOUT : 0), .data.fd = c->fd};
  epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

/* Hand what waits to the kernel. False: the connection is gone. */
static bool flush(Conn *c) {
  while (c->out.start < c->out.end) {
    ssize_t n = send(c->fd, c->out.bytes + c->out.start, c->out.end - c->out.start, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) break;
      drop(c);
      return false;
    }
    c->out.start += (size_t)n;
  }
  watch(c, c->out.start < c->out.end);
  return true;
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void put_json(Conn *c, const char *status, const Buffer *body) {
  putf(&c->out,
       "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\nx-request-id: mock-%llu\r\n%s\r\n", status,
       body->end - body->start, (unsigned long long)c->serial, c->close_after ? "connection: close\r\n" : "");
  put(&c->out, body->bytes + body->start, body->end - body->start);
}

static Buffer scratch; /* one frame or one body at a time */

static void frame_begin(void) { scratch.start = scratch.end = 0; }

static void frame_end(Conn *c) {
  putf(&c->out, "%zx\r\n", scratch.end);
  put(&c->out, scratch.bytes, scratch.end);
  put(&c->out, "\r\n", 2);
}

static void json_answer(Conn *c) {
  int text = c->size > NONCE ? c->size - NONCE : 0;
  unsigned long long id = (unsigned long long)c->serial;
  frame_begin();
  switch (c->dialect) {
    case CHAT:
      putf(&scratch,
           "{\"id\":\"chatcmpl-%llu\",\"object\":\"chat.completion\",\"created\":1767225600,\"model\":\"%s\",\"choices\":"
           "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s%.*s\",\"refusal\":null},\"logprobs\":null,"
           "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d},"
           "\"system_fingerprint\":\"fp_mock\"}",
           id, c->model, c->nonce, text, padding, c->prompt_tokens, c->tokens, c->prompt_tokens + c->tokens);
      break;
    case RESPONSES:
      putf(&scratch,
           "{\"id\":\"resp_%llu\",\"object\":\"response\",\"created_at\":1767225600,\"status\":\"completed\",\"model\":\"%s\","
           "\"output\":[{\"id\":\"msg_%llu\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":"
           "[{\"type\":\"output_text\",\"text\":\"%s%.*s\",\"annotations\":[]}]}],\"parallel_tool_calls\":true,"
           "\"tool_choice\":\"auto\",\"tools\":[],\"usage\":{\"input_tokens\":%d,\"input_tokens_details\":"
           "{\"cached_tokens\":0},\"output_tokens\":%d,\"output_tokens_details\":{\"reasoning_tokens\":0},"
           "\"total_tokens\":%d}}",
           id, c->model, id, c->nonce, text, padding, c->prompt_tokens, c->tokens, c->prompt_tokens + c->tokens);
      break;
    case MESSAGES:
      putf(&scratch,
           "{\"id\":\"msg_%llu\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"%s\",\"content\":[{\"type\":\"text\","
           "\"text\":\"%s%.*s\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":%d,"
           "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":%d}}",
           id, c->model, c->nonce, text, padding, c->prompt_tokens, c->tokens);
      break;
  }
  put_json(c, "200 OK", &scratch);
  c->answering = false;
}

static void chat_chunk(Conn *c, const char *delta, const char *finish) {
  frame_begin();
  putf(&scratch,
       "data: {\"id\":\"chatcmpl-%llu\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"%s\","
       "\"system_fingerprint\":\"fp_mock\",\"choices\":[{\"index\":0,\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]}"
       "\n\n",
       (unsigned long long)c->serial, c->model, delta, finish);
  frame_end(c);
}

/* One event of a dialect whose frames name their event. */
__attribute__((format(printf, 3, 4))) static void named_event(Conn *c, const char *name, const char *format, ...) {
  static char data[4096];
  va_list args;
  va_start(args, format);
  vsnprintf(data, sizeof data, format, args);
  va_end(args);
  frame_begin();
  putf(&scratch, "event: %s\ndata: {\"type\":\"%s\",%s}\n\n", name, name, data);
  frame_end(c);
}

static void response_object(Conn *c, const char *event, const char *status) {
  unsigned long long id = (unsigned long long)c->serial;
  bool done = strcmp(status, "completed") == 0;
  frame_begin();
  putf(&scratch,
       "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,\"response\":{\"id\":\"resp_%llu\",\"object\":\"response\","
       "\"created_at\":1767225600,\"status\":\"%s\",\"model\":\"%s\",\"parallel_tool_calls\":true,\"tool_choice\":\"auto\","
       "\"tools\":[],\"output\":[",
       event, event, c->sequence++, id, status, c->model);
  if (done) {
    putf(&scratch,
         "{\"id\":\"msg_%llu\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":[{\"type\":"
         "\"output_text\",\"text\":\"",
         id);
    put(&scratch, c->text.bytes, c->text.end);
    putf(&scratch,
         "\",\"annotations\":[]}]}],\"usage\":{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":0},"
         "\"output_tokens\":%d,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%d}}}\n\n",
         c->prompt_tokens, c->tokens, c->prompt_tokens + c->tokens);
  } else {
    putf(&scratch, "],\"usage\":null}}\n\n");
  }
  frame_end(c);
}

static void stream_head(Conn *c) {
  unsigned long long id = (unsigned long long)c->serial;
  putf(&c->out,
       "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
       "x-request-id: mock-%llu\r\ntransfer-encoding: chunked\r\n%s\r\n",
       id, c->close_after ? "connection: close\r\n" : "");
  switch (c->dialect) {
    case CHAT:
      chat_chunk(c, "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null", "null");
      break;
    case RESPONSES:
      response_object(c, "response.created", "in_progress");
      response_object(c, "response.in_progress", "in_progress");
      named_event(c, "response.output_item.added",
                  "\"sequence_number\":%d,\"output_index\":0,\"item\":{\"id\":\"msg_%llu\",\"type\":\"message\",\"status\":"
                  "\"in_progress\",\"role\":\"assistant\",\"content\":[]}",
                  c->sequence++, id);
      named_event(c, "response.content_part.added",
                  "\"sequence_number\":%d,\"item_id\":\"msg_%llu\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":"
                  "\"output_text\",\"text\":\"\",\"annotations\":[]}",
                  c->sequence++, id);
      break;
    case MESSAGES:
      named_event(c, "message_start",
                  "\"message\":{\"id\":\"msg_%llu\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"%s\",\"content\":[],"
                  "\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":%d,"
                  "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":1}}",
                  id, c->model, c->prompt_tokens);
      named_event(c, "content_block_start", "\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}");
      break;
  }
}

static void token(Conn *c) {
  char text[TOKEN_BYTES + NONCE + 1];
  /* The first token repeats the nonce, so that each stream proves whose it is. */
  snprintf(text, sizeof text, "~%019llu~%s", (unsigned long long)now_ns(), c->tokens_sent == 0 ? c->nonce : "");
  char delta[96];
  switch (c->dialect) {
    case CHAT:
      snprintf(delta, sizeof delta, "\"content\":\"%s \"", text);
      chat_chunk(c, delta, "null");
      break;
    case RESPONSES:
      putf(&c->text, "%s ", text);
      named_event(c, "response.output_text.delta",
                  "\"sequence_number\":%d,\"item_id\":\"msg_%llu\",\"output_index\":0,\"content_index\":0,\"delta\":\"%s \","
                  "\"logprobs\":[]",
                  c->sequence++, (unsigned long long)c->serial, text);
      break;
    case MESSAGES:
      named_event(c, "content_block_delta", "\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%s \"}", text);
      break;
  }
  c->tokens_sent++;
  stat_tokens++;
}

static void responses_tail(Conn *c) {
  unsigned long long id = (unsigned long long)c->serial;
  const char *events[3] = {"response.output_text.done", "response.content_part.done", "response.output_item.done"};
  for (int i = 0; i < 3; i++) {
    frame_begin();
    putf(&scratch, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,\"output_index\":0,", events[i], events[i],
         c->sequence++);
    if (i < 2) putf(&scratch, "\"item_id\":\"msg_%llu\",\"content_index\":0,", id);
    if (i == 1) putf(&scratch, "\"part\":{\"type\":\"output_text\",\"annotations\":[],");
    if (i == 2)
      putf(&scratch,
           "\"item\":{\"id\":\"msg_%llu\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":"
           "[{\"type\":\"output_text\",\"annotations\":[],",
           id);
    putf(&scratch, "\"text\":\"");
    put(&scratch, c->text.bytes, c->text.end);
    const char *ends[3] = {"\",\"logprobs\":[]}\n\n", "\"}}\n\n", "\"}]}}\n\n"};
    putf(&scratch, "%s", ends[i]);
    frame_end(c);
  }
  response_object(c, "response.completed", "completed");
}

static void stream_tail(Conn *c) {
  switch (c->dialect) {
    case CHAT:
      chat_chunk(c, "", "\"stop\"");
      if (c->usage_wanted) {
        frame_begin();
        putf(&scratch,
             "data: {\"id\":\"chatcmpl-%llu\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"%s\","
             "\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
             (unsigned long long)c->serial, c->model, c->prompt_tokens, c->tokens, c->prompt_tokens + c->tokens);
        frame_end(c);
      }
      put(&c->out, "e\r\ndata: [DONE]\n\n\r\n", 19);
      break;
    case RESPONSES:
      responses_tail(c);
      break;
    case MESSAGES:
      named_event(c, "content_block_stop", "\"index\":0");
      named_event(c, "message_delta",
                  "\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":%d}", c->tokens);
      frame_begin();
      putf(&scratch, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
      frame_end(c);
      break;
  }
  put(&c->out, "0\r\n\r\n", 5);
  c->answering = false;
}

static bool serve(Conn *c);

/* Do what is due on a connection that is answering. False: the connection is gone. */
static bool advance(Conn *c) {
  if (!c->streaming) {
    json_answer(c);
    return flush(c) && serve(c);
  }
  if (c->tokens_sent == 0) {
    stream_head(c);
    if (!flush(c)) return false;
  }
  while (c->tokens_sent < c->tokens) {
    if (c->out.start < c->out.end && c->gap_ms == 0) return true; /* a slow reader: go on when it drained */
    token(c);
    if (c->tokens_sent == c->tokens && c->gap_ms == 0) break;
    if (!flush(c)) return false;
    if (c->gap_ms > 0 && c->tokens_sent < c->tokens) {
      c->next_ns += (uint64_t)c->gap_ms * 1000000ull;
      timer_push(c->next_ns, c->fd, c->generation);
      return true;
    }
  }
  stream_tail(c);
  return flush(c) && serve(c);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

/* The value of a JSON key, or NULL. A key inside a string has its quotes escaped, so it is not found. */
static const char *value_of(const char *body, size_t n, const char *quoted_key) {
  size_t key = strlen(quoted_key);
  const char *at = body, *end = body + n;
  while ((at = memmem(at, (size_t)(end - at), quoted_key, key))) {
    const char *after = at + key;
    bool escaped = at > body && at[-1] == '\\';
    while (after < end && (*after == ' ' || *after == '\n' || *after == '\t')) after++;
    if (!escaped && after < end && *after == ':') {
      after++;
      while (after < end && (*after == ' ' || *after == '\n' || *after == '\t')) after++;
      return after < end ? after : NULL;
    }
    at += key;
  }
  return NULL;
}

static bool is_true(const char *value, const char *end) {
  return value && end - value >= 4 && memcmp(value, "true", 4) == 0;
}

static void read_model(Conn *c) {
  c->ttft_ms = 0, c->tokens = 16, c->gap_ms = 0, c->size = 700;
  for (char *p = strchr(c->model, '-'); p; p = strchr(p + 1, '-')) {
    int n = atoi(p + 2);
    if (p[1] == 't') c->ttft_ms = n;
    if (p[1] == 'n') c->tokens = n > 0 ? n : 1;
    if (p[1] == 'g') c->gap_ms = n;
    if (p[1] == 's') c->size = n < MAX_TEXT ? n : MAX_TEXT;
  }
}

static void refuse(Conn *c, const char *status, const char *why) {
  stat_bad++;
  frame_begin();
  putf(&scratch, "{\"error\":{\"message\":\"%s\",\"type\":\"invalid_request_error\",\"code\":null,\"param\":null}}", why);
  put_json(c, status, &scratch);
}

static bool ends_with(const char *path, size_t n, const char *suffix) {
  size_t m = strlen(suffix);
  return n >= m && memcmp(path + n - m, suffix, m) == 0;
}

/* Start the answer to one POST whose body is whole. False: the connection is gone. */
static bool begin(Conn *c, Dialect dialect, const char *body, size_t n) {
  const char *end = body + n, *model = value_of(body, n, "\"model\"");
  if (!model || *model != '"') {
    refuse(c, "400 Bad Request", "model is missing");
    return flush(c);
  }
  size_t length = 0;
  for (model++; model + length < end && model[length] != '"' && length < MAX_MODEL - 1; length++) c->model[length] = model[length];
  c->model[length] = 0;
  read_model(c);
  c->dialect = dialect;
  c->streaming = is_true(value_of(body, n, "\"stream\""), end);
  c->usage_wanted = is_true(value_of(body, n, "\"include_usage\""), end);
  const char *nonce = memmem(body, n, "nonce=", 6);
  c->nonce[0] = 0;
  if (nonce && end - nonce >= 6 + NONCE) memcpy(c->nonce, nonce + 6, NONCE), c->nonce[NONCE] = 0;
  c->prompt_tokens = (int)(n / 4);
  c->tokens_sent = c->sequence = 0;
  c->text.start = c->text.end = 0;
  c->answering = true;
  c->next_ns = now_ns() + (uint64_t)c->ttft_ms * 1000000ull;
  if (c->ttft_ms > 0) {
    timer_push(c->next_ns, c->fd, c->generation);
    return true;
  }
  return advance(c);
}

static bool answer_get(Conn *c, const char *path, size_t n) {
  frame_begin();
  if (ends_with(path, n, "/models")) {
    putf(&scratch,
         "{\"object\":\"list\",\"data\":[{\"id\":\"mock-t0-n40-g20\",\"object\":\"model\",\"created\":1767225600,\"owned_by\":"
         "\"mock\"}]}");
  } else if (ends_with(path, n, "/stats")) {
    putf(&scratch, "{\"requests\":%llu,\"tokens\":%llu,\"aborted\":%llu,\"connections\":%llu,\"bad\":%llu}",
         (unsigned long long)stat_requests, (unsigned long long)stat_tokens, (unsigned long long)stat_aborted,
         (unsigned long long)stat_connections, (unsigned long long)stat_bad);
  } else {
    putf(&scratch, "{\"ok\":true}");
  }
  put_json(c, "200 OK", &scratch);
  return flush(c);
}

/* Join a chunked body in place. -1: incomplete, -2: malformed, else the bytes consumed; *n becomes the body's length. */
static long join_chunks(char *body, size_t available, size_t *n) {
  size_t read = 0, written = 0;
  for (int pass = 0; pass < 2; pass++) { /* first only measure: an incomplete body must stay as it is */
    read = written = 0;
    for (;;) {
      char *line = memmem(body + read, available - read, "\r\n", 2);
      if (!line) return -1;
      char *rest;
      unsigned long size = strtoul(body + read, &rest, 16);
      if (rest == body + read || size > MAX_REQUEST) return -2;
      read = (size_t)(line + 2 - body);
      if (read + size + 2 > available) return -1;
      if (pass) memmove(body + written, body + read, size);
      written += size;
      read += size + 2;
      if (size == 0) break;
    }
  }
  *n = written;
  return (long)read;
}

static const char *header(const char *head, const char *end, const char *name) {
  size_t n = strlen(name);
  for (const char *line = memchr(head, '\n', (size_t)(end - head)); line; line = memchr(line, '\n', (size_t)(end - line))) {
    line++;
    if ((size_t)(end - line) > n && strncasecmp(line, name, n) == 0) {
      line += n;
      while (*line == ' ') line++;
      return line;
    }
  }
  return NULL;
}

static bool dispatch(Conn *c, char *head, char *body, size_t n) {
  char *path = memchr(head, ' ', (size_t)(body - head));
  char *path_end = path ? memchr(path + 1, ' ', (size_t)(body - path - 1)) : NULL;
  if (!path_end) {
    refuse(c, "400 Bad Request", "malformed request line");
    return flush(c);
  }
  path++;
  char *query = memchr(path, '?', (size_t)(path_end - path));
  size_t length = (size_t)((query ? query : path_end) - path);
  c->serial = next_serial++;
  stat_requests++;
  if (*head == 'G') return answer_get(c, path, length);
  if (ends_with(path, length, "/chat/completions")) return begin(c, CHAT, body, n);
  if (ends_with(path, length, "/responses")) return begin(c, RESPONSES, body, n);
  if (ends_with(path, length, "/messages")) return begin(c, MESSAGES, body, n);
  if (ends_with(path, length, "/count_tokens")) {
    frame_begin();
    putf(&scratch, "{\"input_tokens\":%zu}", n / 4);
    put_json(c, "200 OK", &scratch);
    return flush(c);
  }
  refuse(c, "404 Not Found", "no such endpoint");
  return flush(c);
}

/* Take whole requests from the input as long as nothing is being answered. False: the connection is gone. */
static bool serve(Conn *c) {
  while (!c->answering && c->in.start < c->in.end) {
    char *head = c->in.bytes + c->in.start;
    size_t available = c->in.end - c->in.start;
    char *blank = memmem(head, available, "\r\n\r\n", 4);
    if (!blank) return true;
    char *body = blank + 4;
    size_t body_available = available - (size_t)(body - head), n = 0;
    const char *length = header(head, blank, "content-length:"), *coding = header(head, blank, "transfer-encoding:");
    const char *connection = header(head, blank, "connection:");
    const char *expect = header(head, blank, "expect:");
    c->close_after = connection && strncasecmp(connection, "close", 5) == 0;
    if (coding) {
      long used = join_chunks(body, body_available, &n);
      if (used == -1) return true;
      if (used < 0) return drop(c), false;
      c->in.start += (size_t)(body - head) + (size_t)used;
    } else {
      n = length ? strtoul(length, NULL, 10) : 0;
      if (n > MAX_REQUEST) return drop(c), false;
      if (body_available < n) {
        if (expect && body_available == 0) put(&c->out, "HTTP/1.1 100 Continue\r\n\r\n", 25), flush(c);
        return c->fd >= 0;
      }
      c->in.start += (size_t)(body - head) + n;
    }
    if (!dispatch(c, head, body, n)) return false;
  }
  if (!c->answering && c->close_after && c->out.start == c->out.end) return drop(c), false;
  return true;
}

static void readable(Conn *c) {
  for (;;) {
    reserve(&c->in, 16384);
    ssize_t n = recv(c->fd, c->in.bytes + c->in.end, c->in.capacity - c->in.end, 0);
    if (n == 0) return drop(c);
    if (n < 0) {
      if (errno == EAGAIN) break;
      return drop(c);
    }
    size_t room = c->in.capacity - c->in.end;
    c->in.end += (size_t)n;
    if ((size_t)n < room) break;
  }
  if (!c->answering) serve(c);
}

static void accept_all(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    if (fd >= MAX_FD) {
      close(fd);
      continue;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!conns[fd]) conns[fd] = calloc(1, sizeof(Conn));
    if (!conns[fd]) die("calloc");
    conns[fd]->fd = fd;
    conns[fd]->writable_wanted = conns[fd]->close_after = false;
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    stat_connections++;
  }
}

static void run_timers(void) {
  uint64_t expirations;
  if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timerfd");
  uint64_t now = now_ns();
  while (timer_count && timers[0].at_ns <= now) {
    Timer t = timer_pop();
    Conn *c = conns[t.fd];
    if (c->fd >= 0 && c->generation == t.generation && c->answering) advance(c);
  }
  arm();
}

static void on_event(struct epoll_event *event) {
  Conn *c = conns[event->data.fd];
  if (c->fd < 0) return;
  if (event->events & (EPOLLERR | EPOLLHUP)) return drop(c);
  if (event->events & EPOLLOUT) {
    if (!flush(c)) return;
    if (c->out.start == c->out.end) {
      if (c->answering && c->streaming && c->gap_ms == 0 && c->tokens_sent > 0) {
        if (!advance(c)) return;
      } else if (!c->answering && !serve(c)) {
        return;
      }
    }
  }
  if (event->events & (EPOLLIN | EPOLLRDHUP)) readable(c);
}

static int listen_on(int port, int *bound) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
  if (listen(fd, 4096) < 0) die("listen");
  socklen_t n = sizeof address;
  getsockname(fd, (struct sockaddr *)&address, &n);
  *bound = ntohs(address.sin_port);
  return fd;
}

int main(int argc, char **argv) {
  int port = 0, max_s = 7200, bound;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--port") == 0) port = atoi(argv[i + 1]);
    if (strcmp(argv[i], "--max-s") == 0) max_s = atoi(argv[i + 1]);
  }
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  memset(padding, 'x', MAX_TEXT);
  for (int i = 7; i < MAX_TEXT; i += 8) padding[i] = ' ';
  int listener = listen_on(port, &bound);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
  event.data.fd = timer_fd;
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event);
  printf("listening %d\n", bound);
  fflush(stdout);
  uint64_t end_ns = now_ns() + (uint64_t)max_s * 1000000000ull;
  struct epoll_event events[512];
  while (now_ns() < end_ns) {
    int n = epoll_wait(epoll_fd, events, 512, 1000);
    for (int i = 0; i < n; i++) {
      if (events[i].data.fd == listener) accept_all(listener);
      else if (events[i].data.fd == timer_fd) run_timers();
      else on_event(&events[i]);
    }
  }
  return 0;
}
