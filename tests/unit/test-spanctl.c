// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl without a device: its command line, and its data commands on an
 * ordinary file, which they treat like a window. The calls that only a port
 * knows are tested in an L1 (tests/kvm/span_port_dev.c).
 */
#define KTAP_DEADLINE 60
#include "spanctl-run.h"

#include <fcntl.h>
#include <sys/stat.h>

static char window[32];		/* path of a file of two MiB and a page */
static int window_fd;

#define WINDOW_BYTES (2 * 1024 * 1024 + 4096)

static void make_window(void)
{
	window_fd = MUST(memfd_create("window", 0));
	MUST(ftruncate(window_fd, WINDOW_BYTES));
	snprintf(window, sizeof(window), "/proc/self/fd/%d", window_fd);
}

static void usage(void)
{
	EXPECT(EXIT_OK, "--help");
	CHECK(strstr(output, "exit status"));
	EXPECT(EXIT_USAGE, "nonsense");
	EXPECT(EXIT_USAGE, "read", "/dev/null", "0");
	EXPECT(EXIT_USAGE, "--nonsense");
	EXPECT(EXIT_USAGE, "wait", "/dev/null");
	EXPECT(EXIT_USAGE, "wait", "/dev/null", "--attached", "--detached");
	EXPECT(EXIT_USAGE, "wait", "/dev/null", "--attached", "--timeout", "x");
	EXPECT(EXIT_USAGE, "wait", "/dev/null", "--attached", "--timeout", "-1");
	EXPECT(EXIT_USAGE, "read", window, "zero", "1");
	EXPECT(EXIT_USAGE, "read", window, "0xffffffffffffffff", "1");
	EXPECT(EXIT_USAGE, "write", window, "0", "abc");
	EXPECT(EXIT_USAGE, "write", window, "0", "xy");
	EXPECT(EXIT_USAGE, "write", window, "0", "");
	EXPECT(EXIT_USAGE, "scan", window, "");
	EXPECT(EXIT_USAGE, "scan", window, "hex:1");
	EXPECT(EXIT_USAGE, "ping", window, "-c", "0");
	EXPECT(EXIT_FAILED, "read", "/nonexistent", "0", "1");
	EXPECT(EXIT_FAILED, "info", "/nonexistent");
	/* not a port */
	EXPECT(EXIT_FAILED, "info", window);
	EXPECT(EXIT_FAILED, "ping", window);
	EXPECT(EXIT_FAILED, "detach", window);
	EXPECT(EXIT_FAILED, "wait", window, "--attached", "--timeout", "0");
}

static void write_and_read(void)
{
	char got[8];

	EXPECT(EXIT_OK, "write", window, "0x1ffe", "48 65 6c6C6f");
	MUST(pread(window_fd, got, 5, 0x1ffe));
	CHECK(!memcmp(got, "Hello", 5));
	EXPECT(EXIT_OK, "read", window, "0x1ffe", "5");
	CHECK(!strcmp(output, "00001ffe  48 65 6c 6c 6f                                   |Hello|\n"), "%s", output);
	EXPECT(EXIT_OK, "read", window, "8k", "17");
	CHECK(strstr(output, "00002000  6c 6c 6f 00 "), "%s", output);
	CHECK(strstr(output, "\n00002010  00 "), "%s", output);
	EXPECT(EXIT_OK, "read", window, "0x1ffe", "5", "-o", "-");
	CHECK(!strcmp(output, "Hello"), "%s", output);
	/* up to the end and not beyond */
	EXPECT(EXIT_OK, "read", window, "0x200fff", "1");
	EXPECT(EXIT_FAILED, "read", window, "0x200fff", "2");
	EXPECT(EXIT_FAILED, "read", window, "0x201000", "1");
	CHECK(strstr(output, "end of the memory"), "%s", output);
}

static void files(void)
{
	char path[] = "/tmp/test-spanctl-XXXXXX", data[] = "/tmp/test-spanctl-XXXXXX";
	int fd = MUST(mkstemp(path)), data_fd = MUST(mkstemp(data)), i;
	char at[300] = "@";

	/* through a file, longer than one buffer */
	for (i = 0; i < 300000; i++)
		MUST(write(data_fd, "abcdefg", 7));
	strcat(at, data);
	EXPECT(EXIT_OK, "write", path, "3", at);
	CHECK(MUST(lseek(fd, 0, SEEK_END)) == 2100003);
	EXPECT(EXIT_OK, "read", path, "3", "14", "-o", "-");
	CHECK(!strcmp(output, "abcdefgabcdefg"), "%s", output);
	EXPECT(EXIT_FAILED, "write", path, "0", "@/nonexistent");
	EXPECT(EXIT_OK, "read", path, "3", "2100000", "-o", data);
	CHECK(MUST(lseek(data_fd, 0, SEEK_END)) == 2100000);
	unlink(path);
	unlink(data);
}

static void scan(void)
{
	/* over the border of two buffers, at the end, and overlapping itself */
	MUST(pwrite(window_fd, "needle", 6, COPY_BYTES - 3));
	MUST(pwrite(window_fd, "needle", 6, WINDOW_BYTES - 6));
	MUST(pwrite(window_fd, "ababab", 6, 100));
	EXPECT(EXIT_OK, "scan", window, "needle");
	CHECK(!strcmp(output, "0xffffd\n0x200ffa\n"), "%s", output);
	EXPECT(EXIT_OK, "scan", window, "abab");
	CHECK(!strcmp(output, "0x64\n0x66\n"), "%s", output);
	EXPECT(EXIT_OK, "scan", window, "hex:6e6565646c65", "--json");
	CHECK(!strcmp(output, "{\"offsets\":[1048573,2101242],\"complete\":true}\n"), "%s", output);
	EXPECT(EXIT_OK, "scan", window, "needle", "--json", "-c", "1");
	CHECK(!strcmp(output, "{\"offsets\":[1048573],\"complete\":false}\n"), "%s", output);
	EXPECT(EXIT_NOT_FOUND, "scan", window, "haystack");
	/* one byte, on each page */
	MUST(pwrite(window_fd, "Q", 1, 0));
	EXPECT(EXIT_OK, "scan", window, "Q");
	CHECK(!strcmp(output, "0x0\n"), "%s", output);
}

static void dump(void)
{
	char path[] = "/tmp/test-spanctl-XXXXXX", got[6];
	int fd = MUST(mkstemp(path));
	struct stat st;

	MUST(pwrite(window_fd, "needle", 6, COPY_BYTES - 3));
	EXPECT(EXIT_OK, "dump", window, path);
	MUST(fstat(fd, &st));
	CHECK(st.st_size == WINDOW_BYTES, "%ld", (long)st.st_size);
	CHECK(st.st_blocks * 512 <= 65536, "%ld blocks: not sparse", (long)st.st_blocks);
	MUST(pread(fd, got, 6, COPY_BYTES - 3));
	CHECK(!memcmp(got, "needle", 6));
	EXPECT(EXIT_FAILED, "dump", window, "/nonexistent/file");
	unlink(path);
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "usage", usage },
		{ "write_and_read", write_and_read },
		{ "files", files },
		{ "scan", scan },
		{ "dump", dump },
	};

	make_window();
	return KTAP_RUN(tests);
}
