// SPDX-License-Identifier: GPL-2.0
/*
 * port CPU b|w|l ADDRESS [VALUE]: one access to an I/O port by a certain CPU, so that a
 * test knows which vCPU made the exit. Prints what it read.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>

int main(int argc, char **argv)
{
	unsigned int address, value;
	cpu_set_t set;

	if (argc < 4) {
		fprintf(stderr, "usage: port CPU b|w|l ADDRESS [VALUE]\n");
		return 2;
	}
	CPU_ZERO(&set);
	CPU_SET(atoi(argv[1]), &set);
	if (sched_setaffinity(0, sizeof(set), &set) || iopl(3)) {
		perror("port");
		return 1;
	}
	address = strtoul(argv[3], NULL, 0);
	if (argc == 4) {
		value = argv[2][0] == 'b' ? inb(address) : argv[2][0] == 'w' ? inw(address) : inl(address);
		printf("%#x\n", value);
		return 0;
	}
	value = strtoul(argv[4], NULL, 0);
	if (argv[2][0] == 'b')
		outb(value, address);
	else if (argv[2][0] == 'w')
		outw(value, address);
	else
		outl(value, address);
	return 0;
}
