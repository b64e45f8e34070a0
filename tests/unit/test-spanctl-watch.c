// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl watch, protect and dirty, whole, against a made-up port: this file
 * stands in for port-client.c and watch-client.c. A test says which events the
 * guest makes and what it writes, and looks at what the port was told.
 */
#define KTAP_DEADLINE 60
#include "spanctl-run.h"

#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>

#include "pages.h"
#include "port-client.h"
#include "watch-client.h"

/* --- the port --- */

#define MEMORY_PAGES	1000

static struct {
	int fd;			/* of the watch: readable while there are events */
	int error;		/* of every call on the watch, after creation */
	int create_error;
	struct span_watch_event event[8];
	int events, read;
	char log[4096];		/* what was asked */
	uint64_t written[8];	/* pages, one per fetch */
	int fetches;
	uint64_t bad_next;	/* a port that does not go on */
} port;

static void note(const char *format, ...)
{
	size_t at = strlen(port.log);
	va_list ap;

	va_start(ap, format);
	vsnprintf(port.log + at, sizeof(port.log) - at, format, ap);
	va_end(ap);
}

long long monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

long long monotonic_ms(void)
{
	return monotonic_ns() / 1000000;
}

int port_open(const char *path, bool write)
{
	return strcmp(path, "none") ? eventfd(0, 0) : -ENODEV;
}

int port_open_any(const char *path)
{
	return port_open(path, false);
}

int port_info(int fd, struct span_port_info *info)
{
	memset(info, 0, sizeof(*info));
	info->bytes = MEMORY_PAGES * 4096ull;
	return 0;
}

int port_call(int fd, __u16 *type, void *payload, __u16 *len, long long *ns)
{
	return -ENOTTY;
}

int port_request_detach(int fd)
{
	return -ENOTTY;
}

int port_wait_change(int fd, int timeout_ms)
{
	return -ENOTTY;
}

int watch_create(int fd, __u32 deadline_us, __u32 on_timeout)
{
	note("create %u %u\n", deadline_us, on_timeout);
	if (port.create_error)
		return port.create_error;
	port.fd = MUST(eventfd(port.events, 0));
	return port.fd;
}

static int range_call(const char *what, __u32 access, __u32 mode, __u64 first, __u64 pages)
{
	note("%s %u %u %llu+%llu\n", what, access, mode, (unsigned long long)first,
	     (unsigned long long)pages);
	return port.error;
}

int watch_subscribe(int fd, __u32 access, __u32 mode, __u64 first, __u64 pages)
{
	return range_call("subscribe", access, mode, first, pages);
}

int watch_unsubscribe(int fd, __u32 access, __u64 first, __u64 pages)
{
	return range_call("unsubscribe", access, 0, first, pages);
}

int watch_protect(int fd, __u32 access, __u64 first, __u64 pages)
{
	return range_call("protect", access, 0, first, pages);
}

int watch_read(int fd, struct span_watch_event *events, size_t max)
{
	size_t n = port.events - port.read;
	uint64_t count;

	n = n < max ? n : max;
	memcpy(events, port.event + port.read, n * sizeof(*events));
	port.read += n;
	if (port.read == port.events)
		MUST(read(fd, &count, sizeof(count)));
	return n;
}

int watch_answer(int fd, __u64 event, __u32 verdict, __u32 flags)
{
	note("answer %llu %u %u\n", (unsigned long long)event, verdict, flags);
	return port.error;
}

int watch_info(int fd, struct span_watch_info *info)
{
	memset(info, 0, sizeof(*info));
	info->watch = 3;
	info->events = 7;
	info->denied = 2;
	info->muted = 1;
	return 0;
}

int watch_fetch(int fd, __u64 first, __u64 pages, struct span_watch_range_out *out,
		__u32 max, __u64 *next, __u64 *dirty)
{
	uint64_t page = port.fetches < 8 ? port.written[port.fetches] : 0;

	note("fetch %llu+%llu\n", (unsigned long long)first, (unsigned long long)pages);
	if (port.error)
		return port.error;
	port.fetches++;
	*next = port.bad_next ? port.bad_next : first + pages;
	*dirty = page ? 2 : 0;
	out[0] = (struct span_watch_range_out){ page, 2 };
	return page ? 1 : 0;
}

/* --- running it --- */

static void begin(void)
{
	memset(&port, 0, sizeof(port));
}

static void forget_log(void)
{
	port.log[0] = 0;
}

#define TOLD(text) CHECK(!strcmp(port.log, text), "the port was told: %s", port.log)

static struct span_watch_event *add_event(uint64_t id, uint8_t access, uint32_t page, uint32_t flags)
{
	struct span_watch_event *e = &port.event[port.events++];

	*e = (struct span_watch_event){
		.event = id, .access = access, .page = page, .flags = flags,
		.source = SPAN_SOURCE_GUEST_L0, .vcpu = 1, .gpa = page * 4096ull + 8,
		.time_ns = 12000345678, .rip = 0xffffffff81000010, .cr3 = 0x1000,
	};
	return e;
}

/* --- tests --- */

static bool range_is(const char *text, uint64_t first, uint64_t pages)
{
	struct page_range r;

	return CHECK(parse_range(text, &r), "%s", text) &&
	       CHECK(r.first == first && r.pages == pages, "%s: %llu+%llu", text,
		     (unsigned long long)r.first, (unsigned long long)r.pages);
}

static void ranges(void)
{
	static const char *const bad[] = {
		"", "+", "-", "x", "1+", "+1", "1-", "-1", "1+0", "5-4", "1+2+3", "@", "@+1", "1 ", "@@1",
		"ALL", "1-x", "0x", "18446744073709551616", "@18446744073709551615+@2",
		"1099511627776", "@0-@18446744073709551615", "17592186044416G",
		"1111111111111111111111111111111111111111111111111111111111111111111111111",
	};
	struct page_range r;
	size_t i;

	range_is("0", 0, 1);
	range_is("0x12ab", 0x12ab, 1);
	range_is("16+4", 16, 4);
	range_is("16-19", 16, 4);
	range_is("16-16", 16, 1);
	range_is("64M", 16384, 1);
	range_is("64M+2M", 16384, 512);
	range_is("64k+1", 16, 1);
	range_is("@0x12ab040", 0x12ab, 1);
	/* what is touched partly belongs to it */
	range_is("@4095+@2", 0, 2);
	range_is("@4096+@4096", 1, 1);
	range_is("@4096-@8192", 1, 2);
	range_is("@0-@4095", 0, 1);
	range_is("@1+1", 0, 2);
	range_is("all", 0, 0);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(!parse_range(bad[i], &r), "'%s' was taken: %llu+%llu", bad[i],
		      (unsigned long long)r.first, (unsigned long long)r.pages);

	r = (struct page_range){ 0, 0 };
	CHECK(clip_range(&r, 10) && r.pages == 10);
	r = (struct page_range){ 9, 1 };
	CHECK(clip_range(&r, 10));
	r = (struct page_range){ 9, 2 };
	CHECK(!clip_range(&r, 10));
	r = (struct page_range){ 10, 1 };
	CHECK(!clip_range(&r, 10));
	CHECK(parse_access("rwx") == 7 && parse_access("xr") == 5 && parse_access("none") == 0);
	CHECK(parse_access("") < 0 && parse_access("rwz") < 0 && parse_access("-") < 0);
}

static void lines(void)
{
	struct span_watch_event e = {
		.time_ns = 1000002000, .page = 0x12, .access = SPAN_ACCESS_X, .vcpu = 0xffff, .gpa = ~0ull,
		.source = SPAN_SOURCE_L1,
	};
	char text[300], small[20];

	event_text(text, sizeof(text), &e);
	CHECK(!strcmp(text, "1.000002 execute of page 0x12 by L1"), "%s", text);
	e.vcpu = 3;
	e.gpa = 0x12345;
	e.rip = 0xffffffff81000000;
	e.cr3 = 0x9000;
	e.flags = SPAN_EVENT_F_WALK | SPAN_EVENT_F_VIOLATION;
	event_text(text, sizeof(text), &e);
	CHECK(!strcmp(text, "1.000002 execute of page 0x12 by L1 vcpu 3 gpa 0x12345 rip 0xffffffff81000000 cr3 0x9000 (page walk): denied"),
	      "%s", text);
	e = (struct span_watch_event){ .access = 9, .source = 9 };
	event_text(small, sizeof(small), &e);
	CHECK(strlen(small) == sizeof(small) - 1);
}

static void usage(void)
{
	begin();
	EXPECT(EXIT_USAGE, "watch", "dev", "1");
	SAID("--read, --write or --exec");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1+");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1000");
	SAID("outside of the memory's 1000 pages");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "999+2");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--block", "--notify");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--notify", "--answer", "deny");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--notify", "--cancel");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--block", "--again");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--answer", "maybe");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--on-timeout", "ask");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--deadline", "0.5");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--deadline", "5001");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--deadline", "x");
	EXPECT(EXIT_USAGE, "watch", "dev", "--write", "1", "--allow", "r");
	EXPECT(EXIT_USAGE, "watch", "--write");
	EXPECT(EXIT_USAGE, "protect", "dev", "1");
	EXPECT(EXIT_USAGE, "protect", "dev", "1", "--allow", "q");
	EXPECT(EXIT_USAGE, "protect", "dev", "1", "--allow", "r", "--deadline", "5");
	EXPECT(EXIT_USAGE, "protect", "dev", "--allow", "r");
	EXPECT(EXIT_USAGE, "dirty", "dev", "--interval", "0");
	EXPECT(EXIT_USAGE, "dirty", "dev", "--write");
	EXPECT(EXIT_USAGE, "dirty", "dev", "2000");
	TOLD("");
}

static void refusals(void)
{
	begin();
	EXPECT(EXIT_DETACHED, "watch", "none", "--write", "1");
	port.create_error = -EPERM;
	EXPECT(EXIT_REFUSED, "watch", "dev", "--write", "1");
	SAID("not granted");
	EXPECT(EXIT_REFUSED, "dirty", "dev");
	port.create_error = -EOPNOTSUPP;
	EXPECT(EXIT_FAILED, "watch", "dev", "--write", "1");
	SAID("cannot watch");
	port.create_error = 0;
	port.error = -EPERM;
	EXPECT(EXIT_REFUSED, "watch", "dev", "--write", "1", "--block");
	EXPECT(EXIT_REFUSED, "protect", "dev", "--allow", "r", "1");
	EXPECT(EXIT_REFUSED, "dirty", "dev", "-c", "1", "--interval", "0.001");
	port.error = -ENODEV;
	EXPECT(EXIT_DETACHED, "watch", "dev", "--write", "1", "--block");
}

static void notices(void)
{
	begin();
	add_event(0, SPAN_ACCESS_W, 5, SPAN_EVENT_F_NOTICE);
	add_event(0, SPAN_ACCESS_X, 6, SPAN_EVENT_F_NOTICE);
	EXPECT(EXIT_OK, "watch", "dev", "--write", "--exec", "5+2", "9", "-c", "2");
	TOLD("create 0 1\nsubscribe 6 2 5+2\nsubscribe 6 2 9+1\n");
	SAID("dev: watching 3 pages\n");
	SAID("12.000345 write of page 0x5 by guest vcpu 1 gpa 0x5008 rip 0xffffffff81000010 cr3 0x1000\n");
	SAID("end: count; 7 events");
	SAID("2 denied");
	SAID("; muted\n");

	/* a lost one means that any page may have been meant */
	begin();
	add_event(0, SPAN_ACCESS_W, 5, SPAN_EVENT_F_NOTICE);
	add_event(0, 0, ~0u, SPAN_EVENT_F_NOTICE)->lost = 4;
	add_event(0, SPAN_ACCESS_W, 6, SPAN_EVENT_F_NOTICE);
	add_event(0, SPAN_ACCESS_W, 7, SPAN_EVENT_F_VIOLATION);
	EXPECT(EXIT_TIMEOUT, "watch", "dev", "--read", "5+2", "--notify", "--again", "-c", "4", "-t", "0.1");
	TOLD("create 0 1\nsubscribe 7 2 5+2\nsubscribe 7 2 5+1\nsubscribe 7 2 5+2\nsubscribe 7 2 6+1\n");
	SAID("events were lost: 4 so far");
	SAID("end: timeout");
}

static void answers(void)
{
	begin();
	add_event(11, SPAN_ACCESS_W, 5, 0);
	add_event(12, SPAN_ACCESS_W, 5, SPAN_EVENT_F_WALK);
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--answer", "deny", "--cancel", "--deadline", "2.5",
	       "--on-timeout", "deny", "-c", "1");
	/* the second was not taken: it waits for its deadline, or for another reader */
	TOLD("create 2500 2\nsubscribe 2 1 5+1\nanswer 11 2 1\n");
	SAID("cr3 0x1000: deny\n");

	begin();
	add_event(11, SPAN_ACCESS_W, 5, 0);
	add_event(0, SPAN_ACCESS_W, 5, SPAN_EVENT_F_VIOLATION);
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--block", "-t", "0.05");
	TOLD("create 0 1\nsubscribe 2 1 5+1\nanswer 11 1 0\n");
	SAID("cr3 0x1000: denied\n");
	SAID("end: timeout");
}

/* The person's answers come from standard input. */
static void asking(void)
{
	int pipes[2];

	begin();
	add_event(1, SPAN_ACCESS_W, 5, 0);
	add_event(2, SPAN_ACCESS_W, 5, 0);
	add_event(3, SPAN_ACCESS_W, 5, 0);
	add_event(4, SPAN_ACCESS_W, 5, 0);
	add_event(5, SPAN_ACCESS_W, 5, 0);
	MUST(pipe(pipes));
	MUST(write(pipes[1], "a\nwhat?\n\nd\nA\nD\n", 15));
	close(pipes[1]);
	MUST(dup2(pipes[0], 0));
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--answer", "ask", "-c", "5");
	TOLD("create 0 1\nsubscribe 2 1 5+1\nanswer 1 1 0\nanswer 2 2 0\nanswer 3 1 1\nanswer 4 2 1\nanswer 5 1 0\n");
}

/* While it asks, a signal and the timeout end it, and the access goes on. */
static void asking_ends(void)
{
	int pipes[2];

	begin();
	add_event(1, SPAN_ACCESS_W, 5, 0);
	add_event(2, SPAN_ACCESS_W, 5, 0);
	MUST(pipe(pipes));
	MUST(dup2(pipes[0], 0));
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--answer", "ask", "-t", "0.1");
	TOLD("create 0 1\nsubscribe 2 1 5+1\nanswer 1 1 0\n");
	SAID("end: timeout");
	begin();
	add_event(1, SPAN_ACCESS_W, 5, 0);
	if (!fork()) {
		usleep(200000);
		kill(getppid(), SIGINT);
		_exit(0);
	}
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--answer", "ask");
	SAID("end: signal");
}

/* Half a line was typed: a signal and the timeout end it even so. */
static void asking_ends_in_a_line(void)
{
	int pipes[2];

	MUST(pipe(pipes));
	MUST(dup2(pipes[0], 0));
	MUST(write(pipes[1], "d", 1));
	begin();
	add_event(1, SPAN_ACCESS_W, 5, 0);
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--answer", "ask", "-t", "0.1");
	TOLD("create 0 1\nsubscribe 2 1 5+1\nanswer 1 1 0\n");
	SAID("end: timeout");
	MUST(write(pipes[1], "d", 1));
	begin();
	add_event(1, SPAN_ACCESS_W, 5, 0);
	if (!fork()) {
		usleep(200000);
		kill(getppid(), SIGINT);
		_exit(0);
	}
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--answer", "ask");
	TOLD("create 0 1\nsubscribe 2 1 5+1\nanswer 1 1 0\n");
	SAID("end: signal");
}

/* The last line needs no end; behind it all is allowed. */
static void answer_without_newline(void)
{
	int pipes[2];

	begin();
	add_event(1, SPAN_ACCESS_W, 5, 0);
	add_event(2, SPAN_ACCESS_W, 5, 0);
	MUST(pipe(pipes));
	MUST(write(pipes[1], "Deny", 4));
	close(pipes[1]);
	MUST(dup2(pipes[0], 0));
	EXPECT(EXIT_OK, "watch", "dev", "--write", "5", "--answer", "ask", "-c", "2");
	TOLD("create 0 1\nsubscribe 2 1 5+1\nanswer 1 2 1\nanswer 2 1 0\n");
}

static json_object *nth_line(int n)
{
	char *at = output, *end;
	json_object *j;

	while (n--) {
		at = strchr(at, '\n');
		if (!CHECK(at, "fewer lines: %s", output))
			return NULL;
		at++;
	}
	end = strchrnul(at, '\n');
	*end = 0;
	j = json_tokener_parse(at);
	*end = '\n';
	CHECK(j, "no JSON: %s", at);
	return j;
}

static const char *member(json_object *j, const char *name)
{
	return json_object_get_string(json_object_object_get(j, name));
}

#define MEMBER(j, name, want) ({					\
	const char *got_ = member(j, name);				\
	CHECK(got_ && !strcmp(got_, want), "%s: %s, wanted %s", name, got_ ? got_ : "null", want); \
})

static void json(void)
{
	json_object *j;

	begin();
	add_event(11, SPAN_ACCESS_X, 0x105, SPAN_EVENT_F_DELIVERY);
	add_event(0, 0, ~0u, SPAN_EVENT_F_NOTICE)->lost = 2;
	*add_event(0, SPAN_ACCESS_W, 9, SPAN_EVENT_F_NOTICE | SPAN_EVENT_F_AFTER) = (struct span_watch_event){
		.access = SPAN_ACCESS_W, .page = 9, .flags = SPAN_EVENT_F_NOTICE | SPAN_EVENT_F_AFTER,
		.source = SPAN_SOURCE_L0, .vcpu = 0xffff, .gpa = ~0ull,
	};
	EXPECT(EXIT_OK, "watch", "dev", "--exec", "all", "--json", "--answer", "deny", "-c", "2");
	TOLD("create 0 1\nsubscribe 4 1 0+1000\nanswer 11 2 0\n");
	j = nth_line(0);
	MEMBER(j, "type", "start");
	MEMBER(j, "pages", "1000");
	json_object_put(j);
	j = nth_line(1);
	MEMBER(j, "type", "event");
	MEMBER(j, "event", "11");
	MEMBER(j, "access", "execute");
	MEMBER(j, "page", "261");
	MEMBER(j, "source", "guest");
	MEMBER(j, "vcpu", "1");
	MEMBER(j, "gpa", "1069064");
	MEMBER(j, "rip", "18446744071578845200");
	MEMBER(j, "delivery", "true");
	MEMBER(j, "notice", "false");
	MEMBER(j, "answer", "deny");
	json_object_put(j);
	j = nth_line(2);
	MEMBER(j, "type", "lost");
	MEMBER(j, "lost", "2");
	json_object_put(j);
	j = nth_line(3);
	MEMBER(j, "source", "controller");
	MEMBER(j, "after", "true");
	CHECK(!member(j, "vcpu") && !member(j, "gpa") && !member(j, "rip") && !member(j, "answer"));
	json_object_put(j);
	j = nth_line(4);
	MEMBER(j, "type", "end");
	MEMBER(j, "reason", "count");
	MEMBER(j, "watch", "3");
	MEMBER(j, "muted", "true");
	json_object_put(j);
}

static void protecting(void)
{
	begin();
	add_event(0, SPAN_ACCESS_W, 5, SPAN_EVENT_F_VIOLATION | SPAN_EVENT_F_NOTICE);
	EXPECT(EXIT_OK, "protect", "dev", "--allow", "rx", "5-7", "64k", "-c", "1");
	TOLD("create 0 1\nprotect 5 0 5+3\nprotect 5 0 16+1\n");
	SAID("dev: protecting 4 pages\n");
	SAID(": denied\n");
	begin();
	EXPECT(EXIT_OK, "protect", "dev", "--allow", "none", "5", "-t", "0.05");
	TOLD("create 0 1\nprotect 0 0 5+1\n");
}

static void signals(void)
{
	begin();
	if (!fork()) {
		usleep(200000);
		kill(getppid(), SIGTERM);
		_exit(0);
	}
	EXPECT(EXIT_OK, "watch", "dev", "--write", "1");
	SAID("end: signal");
}

static void dirty(void)
{
	json_object *j;

	begin();
	port.written[0] = 1;	/* all that is in a new log: not shown */
	port.written[1] = 0x20;
	port.written[2] = 0;
	port.written[3] = 0x30;
	EXPECT(EXIT_OK, "dirty", "dev", "--interval", "0.01", "-c", "3", "--list");
	TOLD("create 0 1\nsubscribe 2 3 0+1000\nfetch 0+1000\nfetch 0+1000\nfetch 0+1000\nfetch 0+1000\n");
	SAID(" EPOCH   SECONDS     PAGES    PAGES/S      MB/S\n");
	SAID("        0x20+2\n");
	SAID("        0x30+2\n");
	CHECK(!strstr(output, "0x1+2"), "%s", output);

	begin();
	port.written[2] = 40;
	EXPECT(EXIT_OK, "dirty", "dev", "--interval", "0.01", "-c", "1", "--list", "--json", "7", "40+2");
	TOLD("create 0 1\nsubscribe 2 3 7+1\nsubscribe 2 3 40+2\nfetch 7+1\nfetch 40+2\nfetch 7+1\nfetch 40+2\n");
	j = nth_line(0);
	MEMBER(j, "epoch", "1");
	MEMBER(j, "pages", "2");
	MEMBER(j, "ranges", "[ [ 40, 2 ] ]");
	CHECK(json_object_get_double(json_object_object_get(j, "pages_per_s")) <= 200.0);
	CHECK(json_object_get_double(json_object_object_get(j, "seconds")) >= 0.0099);
	json_object_put(j);

	/* events of others are nothing to it; a log that does not go on is an error */
	begin();
	add_event(0, 0, ~0u, SPAN_EVENT_F_NOTICE);
	EXPECT(EXIT_OK, "dirty", "dev", "--interval", "0.01", "-c", "1");
	port.bad_next = 2000;
	EXPECT(EXIT_FAILED, "dirty", "dev", "--interval", "0.01", "-c", "1");
	begin();
	EXPECT(EXIT_TIMEOUT, "dirty", "dev", "--interval", "5", "-c", "1", "-t", "0.05");
	begin();
	EXPECT(EXIT_OK, "dirty", "--interval", "0.01", "-c", "1");
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "ranges", ranges },
		{ "lines", lines },
		{ "usage", usage },
		{ "refusals", refusals },
		{ "notices", notices },
		{ "answers", answers },
		{ "asking", asking },
		{ "asking_ends", asking_ends },
		{ "asking_ends_in_a_line", asking_ends_in_a_line },
		{ "answer_without_newline", answer_without_newline },
		{ "json", json },
		{ "protecting", protecting },
		{ "signals", signals },
		{ "dirty", dirty },
	};

	before_spanctl = forget_log;
	return KTAP_RUN(tests);
}
