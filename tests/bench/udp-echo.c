// SPDX-License-Identifier: GPL-2.0
/*
 * udp-echo PORT			answer each datagram with itself
 * udp-echo ADDRESS PORT ROUNDS	send one, wait for the answer: median of the
 *				TSC's way from sending to the answer
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <x86intrin.h>

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int serve(int fd)
{
	struct sockaddr_in from;
	char buf[64];

	for (;;) {
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

		if (n < 0 || sendto(fd, buf, n, 0, (struct sockaddr *)&from, len) != n) {
			perror("udp-echo");
			return 1;
		}
	}
}

static int ask(int fd, unsigned int rounds)
{
	struct timeval timeout = { .tv_sec = 10 };
	uint64_t *took = calloc(rounds, sizeof(*took));
	char buf[64] = "as long as a message of a ring";
	unsigned int i;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	for (i = 0; i < rounds; i++) {
		uint64_t t = __rdtsc();

		if (send(fd, buf, sizeof(buf), 0) != sizeof(buf) || recv(fd, buf, sizeof(buf), 0) != sizeof(buf)) {
			perror("udp-echo");
			return 1;
		}
		took[i] = __rdtsc() - t;
	}
	qsort(took, rounds, sizeof(*took), by_value);
	printf("%llu\n", (unsigned long long)took[rounds / 2]);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in sa = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc == 2) {
		sa.sin_port = htons(atoi(argv[1]));
		if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa))) {
			perror("udp-echo");
			return 1;
		}
		return serve(fd);
	}
	if (argc != 4 || inet_pton(AF_INET, argv[1], &sa.sin_addr) != 1 || atoi(argv[3]) <= 0) {
		fprintf(stderr, "usage: udp-echo PORT | udp-echo ADDRESS PORT ROUNDS\n");
		return 2;
	}
	sa.sin_port = htons(atoi(argv[2]));
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		perror("udp-echo");
		return 1;
	}
	return ask(fd, atoi(argv[3]));
}
