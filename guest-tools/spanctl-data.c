// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl: the guest's memory as data: read, write, dump, scan.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "port-client.h"
#include "spanctl.h"
#include "units.h"

#define PAGE		4096u

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

int cmd_read(const char *dev, const char *offset_text, const char *len_text)
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

int cmd_write(const char *dev, const char *offset_text, const char *data)
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

int cmd_dump(const char *dev, const char *path)
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

int cmd_scan(const char *dev, const char *text)
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
