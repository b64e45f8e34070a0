// SPDX-License-Identifier: GPL-2.0
/*
 * Look at memory from a test: a file or device mapped as a whole, or one locked
 * page of anonymous memory. Takes commands on standard input and answers each
 * with one line, so that a test can keep a mapping over a detach.
 *
 *   memtool FILE [ro|rw]	FILE's size by lseek(); rw is the default
 *   memtool --size N FILE [ro|rw]
 *   memtool --page		a page in this level's own memory
 *   memtool --pages N	that many of them
 *
 *   r OFF LEN	read the mapping	= HEX, SIGBUS or SIGSEGV
 *   w OFF HEX	write to the mapping	ok, SIGBUS or SIGSEGV
 *   x OFF NUMBER	write 8 bytes by one instruction: the same
 *   pr OFF LEN, pw OFF HEX	the same by pread() and pwrite(): = HEX, ok, error NAME
 *   s HEX	pages of the file that begin so; holes are not touched: = OFF ...
 *   c OFF	count up the 8 bytes there until the next command: ok, SIGBUS
 *   h		the first hole of the file: = OFF
 *   k		keep a hash of each page: = PAGES, without holes
 *   d		pages that are not as they were kept, up to 4000: = PAGES NUMBER ...
 *   t PAGE STEP N	read a byte of N pages, every STEP-th: ok
 *   p		where the pages are in this level's physical memory: = PAGE ...
 *   W SEED N	write into N pages, chosen by SEED (see scatter()): ok
 *   q		end
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define MAXLEN 4096

static int fd = -1;
static unsigned char *map;
static uint64_t size;
static sigjmp_buf fault;
static volatile sig_atomic_t fault_signal;

static void on_fault(int sig)
{
	fault_signal = sig;
	siglongjmp(fault, 1);
}

/*
 * Byte by byte: the range may be a device's, where wide accesses are not
 * emulated.
 */
static void copy(volatile unsigned char *to, const volatile unsigned char *from, size_t n)
{
	while (n--)
		*to++ = *from++;
}

static void hex_out(const unsigned char *p, size_t n)
{
	printf("= ");
	while (n--)
		printf("%02x", *p++);
	printf("\n");
}

static int hex_in(const char *s, unsigned char *p)
{
	int n = 0;
	unsigned int v;

	while (n < MAXLEN && sscanf(s, "%2x", &v) == 1) {
		p[n++] = v;
		s += 2;
		if (!s[-1])
			break;
	}
	return n;
}

static int inside(uint64_t off, uint64_t len)
{
	if (len <= MAXLEN && off <= size && len <= size - off)
		return 1;
	printf("error out of range\n");
	return 0;
}

static void scan(const unsigned char *want, int n)
{
	unsigned char page[PAGE];
	off_t at = 0, end;

	printf("=");
	while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
		end = lseek(fd, at, SEEK_HOLE);
		for (at &= ~(off_t)(PAGE - 1); at < end; at += PAGE)
			if (pread(fd, page, PAGE, at) == PAGE && !memcmp(page, want, n))
				printf(" %lld", (long long)at);
	}
	printf("\n");
}

static uint64_t hash_page(const uint64_t *p)
{
	uint64_t h = 0x9e3779b97f4a7c15;
	int i;

	for (i = 0; i < PAGE / 8; i++) {
		h = (h ^ p[i]) * 0xd6e8feb86659fd93;
		h ^= h >> 32;
	}
	return h;
}

/* A hole is as good as a page of zeros. Returns pages that are no holes. */
static long hash_file(uint64_t *hash)
{
	static uint64_t buffer[256 * PAGE / 8];
	static const uint64_t zeros[PAGE / 8];
	uint64_t zero = hash_page(zeros), page;
	off_t at = 0, end;
	long pages = 0;
	ssize_t n, i;

	for (page = 0; page < size / PAGE; page++)
		hash[page] = zero;
	while ((uint64_t)at < size) {
		off_t data = lseek(fd, at, SEEK_DATA);

		if (data < 0 && errno == ENXIO)
			break;
		/* Without holes, as a device: all of it. */
		end = data < 0 ? (off_t)size : lseek(fd, data, SEEK_HOLE);
		for (at = data < 0 ? at : data; at < end; at += n) {
			n = end - at < (off_t)sizeof(buffer) ? end - at : (off_t)sizeof(buffer);
			n = pread(fd, buffer, n, at);
			if (n <= 0 || n % PAGE)
				return -1;
			for (i = 0; i < n / PAGE; i++, pages++)
				hash[at / PAGE + i] = hash_page(buffer + i * (PAGE / 8));
		}
	}
	return pages;
}

static void keep_or_compare(int compare)
{
	static uint64_t *kept, *now;
	uint64_t i, n = 0;
	long pages;

	if (!kept) {
		kept = calloc(size / PAGE, sizeof(*kept));
		now = calloc(size / PAGE, sizeof(*now));
	}
	pages = kept && now ? hash_file(compare ? now : kept) : -1;
	if (pages < 0) {
		printf("error %s\n", strerrorname_np(errno));
		return;
	}
	if (!compare) {
		printf("= %ld\n", pages);
		return;
	}
	for (i = 0; i < size / PAGE; i++)
		n += kept[i] != now[i];
	printf("= %llu", (unsigned long long)n);
	for (i = 0, n = 0; i < size / PAGE && n < 4000; i++)
		if (kept[i] != now[i] && ++n)
			printf(" %llu", (unsigned long long)i);
	printf("\n");
}

static void touch(uint64_t page, uint64_t step, uint64_t n)
{
	unsigned char sum = 0;

	for (; n--; page += step)
		if (page < size / PAGE)
			sum += *(volatile unsigned char *)(map + page * PAGE);
	(void)sum;
	printf("ok\n");
}

static void places(void)
{
	uint64_t entry, i;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (pagemap < 0) {
		printf("error %s\n", strerrorname_np(errno));
		return;
	}
	printf("=");
	for (i = 0; i < size / PAGE; i++) {
		if (pread(pagemap, &entry, 8, ((uintptr_t)map / PAGE + i) * 8) != 8 || !(entry >> 63))
			entry = 0;
		printf(" %llu", (unsigned long long)(entry & ((1ULL << 55) - 1)));
	}
	printf("\n");
	close(pagemap);
}

/* The caller knows the same sequence. */
static void scatter(uint32_t seed, unsigned long n)
{
	while (n--) {
		seed = seed * 1664525 + 1013904223;
		*(volatile uint32_t *)(map + (seed >> 8) % (size / PAGE) * PAGE + 2048) = seed;
	}
	printf("ok\n");
}

static void count(volatile uint64_t *p)
{
	struct pollfd pf = { .fd = 0, .events = POLLIN };

	do {
		int i;

		for (i = 0; i < 1000; i++)
			(*p)++;
	} while (!poll(&pf, 1, 0));
	printf("ok\n");
}

static void command(char *line)
{
	unsigned char b[MAXLEN];
	char hex[2 * MAXLEN + 1] = "";
	unsigned long long off = 0, len = 0;
	int n;

	if (sscanf(line, "r %lli %lli", &off, &len) == 2) {
		if (!inside(off, len))
			return;
		copy(b, map + off, len);
		hex_out(b, len);
	} else if (sscanf(line, "w %lli %8192s", &off, hex) == 2) {
		n = hex_in(hex, b);
		if (!inside(off, n))
			return;
		copy(map + off, b, n);
		printf("ok\n");
	} else if (sscanf(line, "x %lli %lli", &off, &len) == 2) {
		if (!inside(off, 8))
			return;
		*(volatile uint64_t *)(map + off) = len;
		printf("ok\n");
	} else if (sscanf(line, "pr %lli %lli", &off, &len) == 2 && len <= MAXLEN) {
		ssize_t r = pread(fd, b, len, off);

		if (r < 0)
			printf("error %s\n", strerrorname_np(errno));
		else
			hex_out(b, r);
	} else if (sscanf(line, "pw %lli %8192s", &off, hex) == 2) {
		n = hex_in(hex, b);
		if (pwrite(fd, b, n, off) == n)
			printf("ok\n");
		else
			printf("error %s\n", strerrorname_np(errno));
	} else if (sscanf(line, "s %8192s", hex) == 1) {
		n = hex_in(hex, b);
		scan(b, n);
	} else if (!strcmp(line, "h")) {
		printf("= %lld\n", (long long)lseek(fd, 0, SEEK_HOLE));
	} else if (sscanf(line, "t %lli %lli %d", &off, &len, &n) == 3) {
		touch(off, len, n);
	} else if (!strcmp(line, "p")) {
		places();
	} else if (sscanf(line, "W %lli %lli", &off, &len) == 2) {
		scatter(off, len);
	} else if (!strcmp(line, "k") || !strcmp(line, "d")) {
		keep_or_compare(*line == 'd');
	} else if (sscanf(line, "c %lli", &off) == 1) {
		if (inside(off, 8))
			count((volatile uint64_t *)(map + off));
	} else {
		printf("error what is '%s'\n", line);
	}
}

static int open_map(int argc, char **argv)
{
	int ro, prot = PROT_READ | PROT_WRITE;

	if ((argc == 2 && !strcmp(argv[1], "--page")) || (argc == 3 && !strcmp(argv[1], "--pages"))) {
		size = PAGE * (argc == 3 ? strtoull(argv[2], NULL, 0) : 1);
		map = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		return map == MAP_FAILED || mlock(map, size);
	}
	if (argc > 3 && !strcmp(argv[1], "--size")) {
		size = strtoull(argv[2], NULL, 0);
		argc -= 2;
		argv += 2;
	}
	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: memtool [--size N] FILE [ro|rw] | memtool --page | memtool --pages N\n");
		exit(2);
	}
	ro = argc == 3 && !strcmp(argv[2], "ro");
	fd = open(argv[1], ro ? O_RDONLY : O_RDWR);
	if (fd < 0)
		return -1;
	if (!size)
		size = lseek(fd, 0, SEEK_END);
	map = mmap(NULL, size, ro ? PROT_READ : prot, MAP_SHARED, fd, 0);
	return map == MAP_FAILED;
}

int main(int argc, char **argv)
{
	static char line[2 * MAXLEN + 64];
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	setvbuf(stdin, NULL, _IONBF, 0);	/* poll() must see what getline has not */
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (open_map(argc, argv)) {
		printf("error %s\n", strerrorname_np(errno));
		return 1;
	}
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	printf("ready %llu\n", (unsigned long long)size);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "q"))
			break;
		if (sigsetjmp(fault, 1))
			printf("%s\n", fault_signal == SIGBUS ? "SIGBUS" : "SIGSEGV");
		else
			command(line);
	}
	return 0;
}
