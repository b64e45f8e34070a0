// SPDX-License-Identifier: GPL-2.0
/* oncpu CPU COMMAND [ARGUMENT...]: a command on a certain CPU, so that a test knows which vCPU does it. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	cpu_set_t set;

	if (argc < 3) {
		fprintf(stderr, "usage: oncpu CPU COMMAND [ARGUMENT...]\n");
		return 2;
	}
	CPU_ZERO(&set);
	CPU_SET(atoi(argv[1]), &set);
	if (!sched_setaffinity(0, sizeof(set), &set))
		execvp(argv[2], argv + 2);
	perror("oncpu");
	return 1;
}
