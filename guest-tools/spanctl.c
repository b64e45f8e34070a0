// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl: use a span-port of this VM (an L1) from the command line.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <json-c/json.h>

#include "port-client.h"
#include "units.h"

enum {
	EXIT_OK = 0,
	EXIT_USAGE = 1,
	EXIT_FAILED = 2,	/* no such device, read or write error, no memory */
	EXIT_DETACHED = 3,	/* no guest is attached (any more) */
	EXIT_TIMEOUT = 4,
	EXIT_REFUSED = 5,	/* not granted: read-only */
	EXIT_NOT_FOUND = 6,	/* scan */
};

#define COPY_BYTES	(1u << 20)
#define PAGE		4096u
#define DEFAULT_DEV	"/dev/span0"

static struct {
	bool json;
	bool attached, detached;
	const char *output;
	int64_t timeout_ms;	/* -1: none given */
	uint64_t count;		/* 0: none given */
} opt = { .timeout_ms = -1 };

static const char usage_text[] =
	"usage: spanctl [--json] COMMAND [ARGUMENTS]\n"
	"Use a span-port of this VM: the window into a Span guest's memory.\n"
	"\n"
	"  list                        all ports and what is attached\n"
	"  info [DEV]                  one port in detail\n"
	"  read DEV OFFSET LEN         hex dump, or raw bytes with -o FILE (- is stdout)\n"
	"  write DEV OFFSET DATA       DATA: hex digits, or @FILE (@- is standard input)\n"
	"  dump DEV FILE               the whole memory into a sparse file\n"
	"  scan DEV PATTERN            offsets of a text, or of bytes: hex:DIGITS\n"
	"  wait DEV --attached|--detached\n"
	"  watch [DEV]                 one line of JSON now and per change\n"
	"  ping [DEV]                  a message to L0 and back; -c N times\n"
	"  stats [DEV]                 message counters that L0 keeps for this port\n"
	"  detach [DEV]                ask to be detached, and wait for it\n"
	"\n"
	"  -j, --json          JSON output (list, info, scan, ping, stats)\n"
	"  -o, --output FILE   of read\n"
	"  -t, --timeout S     of wait, watch (default: none) and detach (default: 10)\n"
	"  -c, --count N       of ping (default 1), watch (default: no end), scan (default 1000)\n"
	"  -h, --help\n"
	"\n"
	"DEV defaults to " DEFAULT_DEV ". Numbers: 4096, 0x1000, 4k, 2M, 1G.\n"
	"exit status: 0 done; 1 usage; 2 failed; 3 no guest attached; 4 timed out;\n"
	"5 not granted; 6 pattern not found\n";

static int fail(int err, const char *format, ...)
{
	va_list ap;

	fputs("spanctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	switch (-err) {
	case 0:
		fputc('\n', stderr);
		return EXIT_FAILED;
	case ENODEV:
		fputs(": no guest is attached\n", stderr);
		return EXIT_DETACHED;
	case EACCES:
		fputs(": not granted\n", stderr);
		return EXIT_REFUSED;
	case ETIMEDOUT:
		fputs(": no answer in time\n", stderr);
		return EXIT_TIMEOUT;
	default:
		fprintf(stderr, ": %s\n", strerror(-err));
		return EXIT_FAILED;
	}
}

static int bad_usage(const char *format, ...)
{
	va_list ap;

	fputs("spanctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputs("; see spanctl --help\n", stderr);
	return EXIT_USAGE;
}

static int out_of_memory(void)
{
	return fail(-ENOMEM, "buffer");
}

/* --- what is attached --- */

static const char *access_name(const struct span_port_info *i)
{
	if (!port_attached(i))
		return "none";
	return i->status & SPAN_STATUS_READONLY ? "ro" : "rw";
}

/* The name comes from L0; show only what cannot harm a terminal. */
static const char *guest_name(const struct span_port_info *i)
{
	static char name[SPAN_NAME_LEN];
	size_t n;

	memcpy(name, i->name, sizeof(name));
	name[sizeof(name) - 1] = 0;
	for (n = 0; name[n]; n++)
		if (!isprint((unsigned char)name[n]))
			name[n] = '?';
	return name;
}

static json_object *info_json(const char *dev, const struct span_port_info *i)
{
	json_object *j = json_object_new_object();

	json_object_object_add(j, "device", json_object_new_string(dev));
	json_object_object_add(j, "attached", json_object_new_boolean(port_attached(i)));
	json_object_object_add(j, "access", json_object_new_string(access_name(i)));
	json_object_object_add(j, "guest", port_attached(i) ?
			       json_object_new_string(guest_name(i)) : NULL);
	json_object_object_add(j, "generation", json_object_new_int64(i->generation));
	json_object_object_add(j, "bytes", json_object_new_int64(i->bytes));
	json_object_object_add(j, "window_bytes", json_object_new_int64(i->window_bytes));
	json_object_object_add(j, "window_phys", json_object_new_int64(i->window_phys));
	json_object_object_add(j, "faults_pte", json_object_new_int64(i->faults_pte));
	json_object_object_add(j, "faults_pmd", json_object_new_int64(i->faults_pmd));
	json_object_object_add(j, "detaching",
			       json_object_new_boolean(i->status & SPAN_STATUS_DETACHING));
	json_object_object_add(j, "version", json_object_new_int64(i->version));
	return j;
}

static void print_json(json_object *j, int flags)
{
	puts(json_object_to_json_string_ext(j, flags));
	fflush(stdout);
	json_object_put(j);
}

/* Open, look, close; a detach between open and look is looked at again. */
static int look(const char *dev, struct span_port_info *info)
{
	int fd, ret, tries;

	for (tries = 0; tries < 10; tries++) {
		fd = port_open_any(dev);
		if (fd < 0)
			return fd;
		ret = port_info(fd, info);
		close(fd);
		if (ret != -ENODEV)
			return ret;
	}
	return ret;
}

static int cmd_info(const char *dev)
{
	struct span_port_info i;
	int ret = look(dev, &i);

	if (ret)
		return ret == -ENODEV ? fail(0, "%s: the device is gone", dev) : fail(ret, "%s", dev);
	if (opt.json) {
		print_json(info_json(dev, &i), JSON_C_TO_STRING_PRETTY);
		return EXIT_OK;
	}
	printf("device       %s\n", dev);
	printf("attached     %s\n", port_attached(&i) ? "yes" : "no");
	if (port_attached(&i)) {
		printf("guest        %s\n", guest_name(&i));
		printf("access       %s\n", access_name(&i));
		printf("memory       %llu MiB\n", (unsigned long long)i.bytes >> 20);
	}
	printf("generation   %u\n", i.generation);
	printf("window       %llu MiB at 0x%llx\n", (unsigned long long)i.window_bytes >> 20,
	       (unsigned long long)i.window_phys);
	printf("faults       %llu of 4 KiB, %llu of 2 MiB\n", (unsigned long long)i.faults_pte,
	       (unsigned long long)i.faults_pmd);
	return EXIT_OK;
}

static int cmd_list(void)
{
	json_object *all = opt.json ? json_object_new_array() : NULL;
	struct span_port_info i;
	int ret, status = EXIT_OK;
	glob_t g;
	size_t n;

	if (glob("/dev/span[0-9]*", 0, NULL, &g))
		g.gl_pathc = 0;
	if (!opt.json)
		printf("%-12s %-6s %10s %10s %s\n", "DEVICE", "ACCESS", "MEMORY", "WINDOW", "GUEST");
	for (n = 0; n < g.gl_pathc; n++) {
		ret = look(g.gl_pathv[n], &i);
		if (ret) {
			status = fail(ret, "%s", g.gl_pathv[n]);
			continue;
		}
		if (opt.json)
			json_object_array_add(all, info_json(g.gl_pathv[n], &i));
		else
			printf("%-12s %-6s %6llu MiB %6llu MiB %s\n", g.gl_pathv[n], access_name(&i),
			       (unsigned long long)i.bytes >> 20,
			       (unsigned long long)i.window_bytes >> 20,
			       port_attached(&i) ? guest_name(&i) : "-");
	}
	if (opt.json)
		print_json(all, JSON_C_TO_STRING_PRETTY);
	else if (!n)
		fputs("spanctl: no span-port in this VM (is span_port.ko loaded?)\n", stderr);
	globfree(&g);
	return n ? status : EXIT_FAILED;
}

/* --- data --- */

static void hex_line(uint64_t offset, const uint8_t *p, size_t n)
{
	size_t i;

	printf("%08" PRIx64 " ", offset);
	for (i = 0; i < 16; i++) {
		if (i < n)
			printf(" %02x", p[i]);
		else
			fputs("   ", stdout);
	}
	fputs("  |", stdout);
	for (i = 0; i < n; i++)
		putchar(isprint(p[i]) ? p[i] : '.');
	fputs("|\n", stdout);
}

static bool write_all(int fd, const uint8_t *p, size_t n)
{
	ssize_t w;

	for (; n; n -= w, p += w) {
		w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			w = 0;
		if (w < 0)
			return false;
	}
	return true;
}

static void hex_dump(uint64_t offset, const uint8_t *p, size_t n)
{
	size_t i;

	for (i = 0; i < n; i += 16)
		hex_line(offset + i, p + i, n - i < 16 ? n - i : 16);
}

static int copy_out(int fd, const char *dev, uint64_t offset, uint64_t len, int out)
{
	uint8_t *buf = malloc(COPY_BYTES);
	int ret = EXIT_OK;
	ssize_t n;

	if (!buf)
		return out_of_memory();
	while (len) {
		n = pread(fd, buf, len < COPY_BYTES ? len : COPY_BYTES, offset);
		if (n <= 0) {
			ret = n ? fail(-errno, "%s: reading at 0x%" PRIx64, dev, offset) :
				  fail(0, "%s: 0x%" PRIx64 " is the end of the memory", dev, offset);
			break;
		}
		if (out < 0) {
			hex_dump(offset, buf, n);
		} else if (!write_all(out, buf, n)) {
			ret = fail(-errno, "%s", opt.output);
			break;
		}
		offset += n;
		len -= n;
	}
	free(buf);
	return ret;
}

static int cmd_read(const char *dev, const char *offset_text, const char *len_text)
{
	uint64_t offset, len;
	int fd, out = -1, ret;

	if (!parse_size(offset_text, &offset) || !parse_size(len_text, &len) || offset > INT64_MAX)
		return bad_usage("bad number '%s' or '%s'", offset_text, len_text);
	fd = port_open(dev, false);
	if (fd < 0)
		return fail(fd, "%s", dev);
	if (opt.output && !strcmp(opt.output, "-"))
		out = STDOUT_FILENO;
	else if (opt.output)
		out = open(opt.output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (opt.output && out < 0) {
		ret = fail(-errno, "%s", opt.output);
		goto close_fd;
	}
	ret = copy_out(fd, dev, offset, len, out);
	if (out > STDOUT_FILENO && close(out) && !ret)
		ret = fail(-errno, "%s", opt.output);
close_fd:
	close(fd);
	return ret;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Hex digits to bytes; spaces between bytes are skipped. NULL if it is not hex. */
static uint8_t *parse_hex(const char *text, size_t *len)
{
	uint8_t *bytes = malloc(strlen(text) / 2 + 1);
	size_t n = 0;

	if (!bytes)
		return NULL;
	for (; *text; text++) {
		if (isspace((unsigned char)*text))
			continue;
		if (hex_value(text[0]) < 0 || hex_value(text[1]) < 0) {
			free(bytes);
			return NULL;
		}
		bytes[n++] = hex_value(text[0]) << 4 | hex_value(text[1]);
		text++;
	}
	*len = n;
	return bytes;
}

static int write_at(int fd, const char *dev, uint64_t offset, const uint8_t *p, size_t len)
{
	ssize_t n;

	for (; len; len -= n, p += n, offset += n) {
		n = pwrite(fd, p, len, offset);
		if (n < 0 && errno == EINTR)
			n = 0;
		if (n < 0)
			return fail(-errno, "%s: writing at 0x%" PRIx64, dev, offset);
	}
	return EXIT_OK;
}

static int write_file(int fd, const char *dev, uint64_t offset, const char *path)
{
	int in = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	uint8_t *buf = malloc(COPY_BYTES);
	int ret = EXIT_OK;
	ssize_t n;

	if (in < 0) {
		ret = fail(-errno, "%s", path);
		goto free_buf;
	}
	if (!buf) {
		ret = out_of_memory();
		goto close_in;
	}
	while (!ret && (n = read(in, buf, COPY_BYTES))) {
		if (n < 0) {
			ret = fail(-errno, "%s", path);
			break;
		}
		ret = write_at(fd, dev, offset, buf, n);
		offset += n;
	}
close_in:
	if (in != STDIN_FILENO)
		close(in);
free_buf:
	free(buf);
	return ret;
}

static int cmd_write(const char *dev, const char *offset_text, const char *data)
{
	uint8_t *bytes = NULL;
	uint64_t offset;
	size_t len = 0;
	int fd, ret;

	if (!parse_size(offset_text, &offset) || offset > INT64_MAX)
		return bad_usage("bad number '%s'", offset_text);
	if (data[0] != '@') {
		bytes = parse_hex(data, &len);
		if (!bytes || !len) {
			free(bytes);
			return bad_usage("'%s' is neither hex digits nor @FILE", data);
		}
	}
	fd = port_open(dev, true);
	if (fd < 0) {
		ret = fail(fd, "%s", dev);
		goto free_bytes;
	}
	ret = bytes ? write_at(fd, dev, offset, bytes, len) :
		      write_file(fd, dev, offset, data + 1);
	close(fd);
free_bytes:
	free(bytes);
	return ret;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* Zero pages become holes. */
static bool write_sparse(int out, uint64_t offset, const uint8_t *p, size_t n)
{
	size_t i, len;

	for (i = 0; i < n; i += len) {
		len = n - i < PAGE ? n - i : PAGE;
		if (all_zero(p + i, len))
			continue;
		if (pwrite(out, p + i, len, offset + i) != (ssize_t)len)
			return false;
	}
	return true;
}

static int dump_to(int fd, const char *dev, int out, const char *path)
{
	uint8_t *buf = malloc(COPY_BYTES);
	uint64_t offset = 0, size;
	bool tty = isatty(STDERR_FILENO);
	int ret = EXIT_OK;
	off_t end;
	ssize_t n;

	if (!buf)
		return out_of_memory();
	end = lseek(fd, 0, SEEK_END);
	if (end < 0) {
		ret = fail(-errno, "%s", dev);
		goto free_buf;
	}
	size = end;
	while (offset < size) {
		n = pread(fd, buf, COPY_BYTES, offset);
		if (n <= 0) {
			ret = fail(n ? -errno : 0, "%s: reading at 0x%" PRIx64, dev, offset);
			break;
		}
		if (!write_sparse(out, offset, buf, n)) {
			ret = fail(-errno, "%s", path);
			break;
		}
		offset += n;
		if (tty)
			fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " MiB", offset >> 20, size >> 20);
	}
	if (tty)
		fputc('\n', stderr);
	/* a hole at the end counts as well */
	if (!ret && ftruncate(out, size))
		ret = fail(-errno, "%s", path);
free_buf:
	free(buf);
	return ret;
}

static int cmd_dump(const char *dev, const char *path)
{
	int fd, out, ret;

	fd = port_open(dev, false);
	if (fd < 0)
		return fail(fd, "%s", dev);
	out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (out < 0) {
		ret = fail(-errno, "%s", path);
		goto close_fd;
	}
	ret = dump_to(fd, dev, out, path);
	if (close(out) && !ret)
		ret = fail(-errno, "%s", path);
close_fd:
	close(fd);
	return ret;
}

struct hits {
	json_object *list;	/* NULL: print as found */
	uint64_t count, most;
};

static bool report_hit(struct hits *h, uint64_t offset)
{
	h->count++;
	if (h->list)
		json_object_array_add(h->list, json_object_new_int64(offset));
	else
		printf("0x%" PRIx64 "\n", offset);
	return h->count < h->most;
}

/* In overlapping pieces, so that a match over a border is found, and once. */
static int scan_for(int fd, const char *dev, const uint8_t *pattern, size_t len, struct hits *h)
{
	size_t keep = 0, have;
	uint8_t *buf = malloc(COPY_BYTES + len), *p, *hit;
	uint64_t offset = 0;	/* of buf */
	int ret = EXIT_OK;
	ssize_t n;

	if (!buf)
		return out_of_memory();
	for (;;) {
		n = pread(fd, buf + keep, COPY_BYTES, offset + keep);
		if (n < 0)
			ret = fail(-errno, "%s: reading at 0x%" PRIx64, dev, offset + keep);
		if (n <= 0)
			break;
		have = keep + n;
		for (p = buf; (hit = memmem(p, buf + have - p, pattern, len)); p = hit + 1)
			if (!report_hit(h, offset + (hit - buf)))
				goto free_buf;
		keep = have < len - 1 ? have : len - 1;
		offset += have - keep;
		memmove(buf, buf + have - keep, keep);
	}
free_buf:
	free(buf);
	return ret;
}

static int cmd_scan(const char *dev, const char *text)
{
	struct hits h = { .most = opt.count ? opt.count : 1000 };
	bool is_hex = !strncmp(text, "hex:", 4);
	size_t len = strlen(text);
	uint8_t *pattern;
	int fd, ret;

	pattern = is_hex ? parse_hex(text + 4, &len) : (uint8_t *)strdup(text);
	if (!pattern || !len || len > COPY_BYTES) {
		free(pattern);
		return bad_usage("bad pattern '%s'", text);
	}
	fd = port_open(dev, false);
	if (fd < 0) {
		ret = fail(fd, "%s", dev);
		goto free_pattern;
	}
	if (opt.json)
		h.list = json_object_new_array();
	ret = scan_for(fd, dev, pattern, len, &h);
	if (h.list) {
		json_object *j = json_object_new_object();

		json_object_object_add(j, "offsets", h.list);
		json_object_object_add(j, "complete",
				       json_object_new_boolean(!ret && h.count < h.most));
		print_json(j, JSON_C_TO_STRING_PLAIN);
	}
	if (!ret && !h.count)
		ret = EXIT_NOT_FOUND;
	close(fd);
free_pattern:
	free(pattern);
	return ret;
}

/* --- changes --- */

static int time_left(long long deadline)
{
	long long left;

	if (deadline < 0)
		return -1;
	left = deadline - monotonic_ms();
	return left > 0 ? left : 0;
}

static long long deadline_in(int64_t default_ms)
{
	int64_t ms = opt.timeout_ms >= 0 ? opt.timeout_ms : default_ms;

	return ms < 0 ? -1 : monotonic_ms() + ms;
}

/*
 * The next state: waits for a change if @first is false. Keeps *@fd, whose
 * attachment may end, in which case a new one is opened.
 */
static int next_state(const char *dev, int *fd, bool first, long long deadline,
		      struct span_port_info *info)
{
	int ret, tries;

	if (!first) {
		ret = port_wait_change(*fd, time_left(deadline));
		if (ret <= 0)
			return ret ? ret : -ETIMEDOUT;
	}
	for (tries = 0; tries < 10; tries++) {
		if (*fd < 0)
			*fd = port_open_any(dev);
		if (*fd < 0)
			return *fd;
		ret = port_info(*fd, info);
		if (ret != -ENODEV)
			return ret;
		close(*fd);
		*fd = -1;
	}
	return ret;
}

static int cmd_wait(const char *dev)
{
	long long deadline = deadline_in(-1);
	struct span_port_info info;
	bool first = true;
	int fd = -1, ret;

	if (opt.attached == opt.detached)
		return bad_usage("wait needs either --attached or --detached");
	for (;; first = false) {
		ret = next_state(dev, &fd, first, deadline, &info);
		if (ret || port_attached(&info) == opt.attached)
			break;
	}
	if (fd >= 0)
		close(fd);
	if (ret == -ETIMEDOUT) {
		fprintf(stderr, "spanctl: %s: still %s\n", dev,
			opt.attached ? "detached" : "attached");
		return EXIT_TIMEOUT;
	}
	return ret ? fail(ret, "%s", dev) : EXIT_OK;
}

static int cmd_watch(const char *dev)
{
	long long deadline = deadline_in(-1);
	struct span_port_info info;
	uint64_t shown = 0;
	int fd = -1, ret;

	do {
		ret = next_state(dev, &fd, !shown, deadline, &info);
		if (ret)
			break;
		print_json(info_json(dev, &info), JSON_C_TO_STRING_PLAIN);
	} while (++shown != opt.count);
	if (fd >= 0)
		close(fd);
	if (ret == -ETIMEDOUT)
		return EXIT_TIMEOUT;
	return ret ? fail(ret, "%s", dev) : EXIT_OK;
}

/* --- messages --- */

static int cmd_ping(const char *dev)
{
	uint64_t count = opt.count ? opt.count : 1, i;
	long long ns, sum = 0, least = -1, most = 0;
	uint8_t payload[48];
	int fd, ret = 0;
	__u16 type, len;

	fd = port_open_any(dev);
	if (fd < 0)
		return fail(fd, "%s", dev);
	for (i = 0; i < count; i++) {
		type = SPAN_MSG_PING;
		len = sizeof(i);
		memset(payload, 0, sizeof(payload));
		memcpy(payload, &i, sizeof(i));
		ret = port_call(fd, &type, payload, &len, &ns);
		if (ret)
			break;
		if (type != SPAN_MSG_PONG || len != sizeof(i) || memcmp(payload, &i, sizeof(i))) {
			ret = -EPROTO;
			break;
		}
		sum += ns;
		least = least < 0 || ns < least ? ns : least;
		most = ns > most ? ns : most;
		if (!opt.json)
			printf("%s: answer %" PRIu64 " in %.1f us\n", dev, i, ns / 1e3);
	}
	close(fd);
	if (ret)
		return fail(ret, "%s: ping", dev);
	if (opt.json) {
		json_object *j = json_object_new_object();

		json_object_object_add(j, "count", json_object_new_int64(count));
		json_object_object_add(j, "min_us", json_object_new_double(least / 1e3));
		json_object_object_add(j, "mean_us", json_object_new_double(sum / 1e3 / count));
		json_object_object_add(j, "max_us", json_object_new_double(most / 1e3));
		print_json(j, JSON_C_TO_STRING_PLAIN);
	}
	return EXIT_OK;
}

static int cmd_stats(const char *dev)
{
	static const char *const names[] = { "received", "sent", "dropped", "malformed" };
	__u16 type = SPAN_MSG_STATS_GET, len = 0;
	json_object *j = json_object_new_object();
	uint64_t value[6] = {};
	long long ns;
	int fd, ret;
	size_t i;

	fd = port_open_any(dev);
	ret = fd < 0 ? fd : port_call(fd, &type, value, &len, &ns);
	if (fd >= 0)
		close(fd);
	if (!ret && (type != SPAN_MSG_STATS || len < 32))
		ret = -EPROTO;
	if (ret) {
		json_object_put(j);
		return fail(ret, "%s: stats", dev);
	}
	for (i = 0; i < 4; i++) {
		json_object_object_add(j, names[i], json_object_new_int64(value[i]));
		if (!opt.json)
			printf("%-10s %" PRIu64 "\n", names[i], value[i]);
	}
	if (opt.json)
		print_json(j, JSON_C_TO_STRING_PLAIN);
	else
		json_object_put(j);
	return EXIT_OK;
}

static int cmd_detach(const char *dev)
{
	long long deadline = deadline_in(10000);
	struct span_port_info info;
	int fd, ret;

	fd = port_open(dev, false);
	if (fd < 0)
		return fail(fd, "%s", dev);
	ret = port_info(fd, &info);
	if (!ret)
		ret = port_request_detach(fd);
	while (!ret) {
		ret = port_wait_change(fd, time_left(deadline));
		if (!ret)
			ret = -ETIMEDOUT;
		if (ret < 0)
			break;
		ret = port_info(fd, &info);
	}
	close(fd);
	/* the file's attachment is over: that was the wish */
	if (ret == -ENODEV)
		return EXIT_OK;
	return fail(ret, "%s: detach", dev);
}

/* --- command line --- */

static int run(int argc, char **argv)
{
	const char *cmd = argv[0], *dev = argc > 1 ? argv[1] : DEFAULT_DEV;

	if (!strcmp(cmd, "list") && argc == 1)
		return cmd_list();
	if (!strcmp(cmd, "info") && argc <= 2)
		return cmd_info(dev);
	if (!strcmp(cmd, "read") && argc == 4)
		return cmd_read(dev, argv[2], argv[3]);
	if (!strcmp(cmd, "write") && argc == 4)
		return cmd_write(dev, argv[2], argv[3]);
	if (!strcmp(cmd, "dump") && argc == 3)
		return cmd_dump(dev, argv[2]);
	if (!strcmp(cmd, "scan") && argc == 3)
		return cmd_scan(dev, argv[2]);
	if (!strcmp(cmd, "wait") && argc <= 2)
		return cmd_wait(dev);
	if (!strcmp(cmd, "watch") && argc <= 2)
		return cmd_watch(dev);
	if (!strcmp(cmd, "ping") && argc <= 2)
		return cmd_ping(dev);
	if (!strcmp(cmd, "stats") && argc <= 2)
		return cmd_stats(dev);
	if (!strcmp(cmd, "detach") && argc <= 2)
		return cmd_detach(dev);
	return bad_usage("no command '%s' with %d argument%s", cmd, argc - 1, argc == 2 ? "" : "s");
}

static bool parse_seconds(const char *text, int64_t *ms)
{
	char *end;
	double s = strtod(text, &end);

	if (end == text || *end || !(s >= 0) || s > 1e6)
		return false;
	*ms = s * 1000;
	return true;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "attached", no_argument, NULL, 'A' },
		{ "detached", no_argument, NULL, 'D' },
		{ "output", required_argument, NULL, 'o' },
		{ "timeout", required_argument, NULL, 't' },
		{ "count", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int c, ret;

	while ((c = getopt_long(argc, argv, "jo:t:c:h", longs, NULL)) != -1) {
		switch (c) {
		case 'j':
			opt.json = true;
			break;
		case 'A':
			opt.attached = true;
			break;
		case 'D':
			opt.detached = true;
			break;
		case 'o':
			opt.output = optarg;
			break;
		case 't':
			if (!parse_seconds(optarg, &opt.timeout_ms))
				return bad_usage("bad number of seconds '%s'", optarg);
			break;
		case 'c':
			if (!parse_size(optarg, &opt.count) || !opt.count)
				return bad_usage("bad count '%s'", optarg);
			break;
		case 'h':
			fputs(usage_text, stdout);
			return EXIT_OK;
		default:
			return EXIT_USAGE;
		}
	}
	if (optind == argc) {
		fputs(usage_text, stderr);
		return EXIT_USAGE;
	}
	ret = run(argc - optind, argv + optind);
	if (fflush(stdout) || ferror(stdout))
		return fail(-errno, "standard output");
	return ret;
}
