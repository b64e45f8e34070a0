// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzer of the frames between the controllers of one guest
 * (backends/span-chan.c of the QEMU series); the decoder is the same at both ends.
 *
 * Streams of frames with bits flipped, bytes written over, pieces cut out, put in
 * twice or exchanged, and streams of random bytes, are read as the ends read them:
 * by what span_chan_want() asks for, in pieces of random sizes. Whatever comes: a
 * reader never needs more than its buffer, what decodes encodes to the same bytes,
 * texts end, and after an error nothing is read on. Deterministic:
 *
 *     span-chan [ROUNDS [SEED]]
 *
 * tests/unit/test-span-chan-fuzz.sh builds it with sanitizers and runs it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QEMU_OSDEP_H
#include "backends/span-chan.c"

#define STREAM 16384

static uint64_t seed_state;
static uint64_t decoded, refused[8], by_type[SPAN_CHAN_TYPES];

static uint32_t rnd(void)
{
	seed_state = seed_state * 6364136223846793005ull + 1442695040888963407ull;
	return seed_state >> 33;
}

static uint64_t rnd64(void)
{
	static const uint64_t odd[] = { 0, 1, 255, 256, 0xffff, 0x10000, UINT32_MAX, 1ull << 63, UINT64_MAX };

	if (rnd() % 2)
		return odd[rnd() % (sizeof(odd) / sizeof(odd[0]))];
	return (uint64_t)rnd() << 33 ^ (uint64_t)rnd() << 11 ^ rnd();
}

static void random_text(char *text, size_t size)
{
	size_t i, n = rnd() % 4 ? rnd() % 16 : rnd() % size;

	for (i = 0; i < n; i++)
		text[i] = 0x20 + rnd() % 0x5f;
	text[n] = 0;
}

/* A frame of any type with any content; most of them are valid. */
static void random_frame(SpanChanFrame *f, uint64_t seq)
{
	static uint8_t data[2048];
	size_t i;

	memset(f, 0, sizeof(*f));
	f->type = 1 + rnd() % (SPAN_CHAN_TYPES - 1);
	f->epoch = rnd64();
	f->seq = seq;
	for (i = 0; i < sizeof(data); i++)
		data[i] = rnd();
	f->data = data;
	f->data_len = rnd() % sizeof(data);
	switch (f->type) {
	case SPAN_CHAN_HELLO:
		f->u.flags = rnd() % 2;
		break;
	case SPAN_CHAN_WELCOME:
		f->u.welcome.nr_vcpus = 1 + rnd() % 64;
		break;
	case SPAN_CHAN_REFUSE:
	case SPAN_CHAN_FAILED:
		random_text(f->u.text, sizeof(f->u.text));
		break;
	case SPAN_CHAN_PREPARE:
	case SPAN_CHAN_FREEZE:
		f->u.freeze.vcpus = rnd64();
		f->u.freeze.timeout_ms = rnd();
		break;
	case SPAN_CHAN_SECTION:
		f->u.section.instance = rnd64();
		f->u.section.version = rnd64();
		random_text(f->u.section.name, sizeof(f->u.section.name));
		break;
	case SPAN_CHAN_STATE_END:
		f->u.end.vcpus = rnd64();
		f->u.end.count = rnd64();
		f->u.end.sum = rnd64();
		f->u.end.time.tsc_offset = rnd64();
		f->u.end.time.tsc = rnd64();
		f->u.end.time.virtual_ns = rnd64();
		f->u.end.time.clock_ns = rnd64();
		f->u.end.time.has_clock = 1;
		break;
	case SPAN_CHAN_IO_REQ:
	case SPAN_CHAN_IO_REP:
		f->u.io.id = rnd();
		f->u.io.vcpu = rnd() % 64;
		f->u.io.flags = rnd() % 4;
		f->u.io.len = 1 << rnd() % 4;
		f->u.io.addr = f->u.io.flags & SPAN_CHAN_IO_MMIO ? rnd64() : rnd() % 65536;
		f->u.io.value = rnd() % 2 ? rnd() % 256 : rnd64();
		break;
	case SPAN_CHAN_EOI:
		f->u.vector = rnd() % 256;
		break;
	case SPAN_CHAN_REQUEST:
		f->u.kind = 1 + rnd() % 4;
		break;
	case SPAN_CHAN_PING:
	case SPAN_CHAN_PONG:
		f->u.cookie = rnd64();
		break;
	default:
		f->u.vcpus = rnd64();
		break;
	}
}

static void die(const char *what, const uint8_t *frame, size_t len)
{
	size_t i;

	printf("# %s, state %llx, frame:", what, (unsigned long long)seed_state);
	for (i = 0; i < len && i < 64; i++)
		printf(" %02x", frame[i]);
	printf("\n");
	exit(1);
}

static size_t mutate(uint8_t *s, size_t len, size_t room)
{
	size_t a = rnd() % len, b = rnd() % len, n = 1 + rnd() % 64;

	if (a + n > len)
		n = len - a;
	switch (rnd() % 6) {
	case 0:
		s[a] ^= 1 << rnd() % 8;
		return len;
	case 1:		/* a number that is odd in some way */
		put_le(s + a, rnd64(), n < 8 ? n : 8);
		return len;
	case 2:		/* cut out */
		memmove(s + a, s + a + n, len - a - n);
		return len - n;
	case 3:		/* the same again, later or earlier */
		if (len + n > room)
			return len;
		memmove(s + b + n, s + b, len - b);
		memmove(s + b, s + (a < b || a + n > len ? a : a + n), n);
		return len + n;
	case 4:
		memmove(s + b, s + a, n < len - b ? n : len - b);
		return len;
	default:	/* the end of the connection */
		return a ? a : 1;
	}
}

static void check_text(const char *text, size_t size, const uint8_t *buf, size_t len)
{
	if (!memchr(text, 0, size))
		die("a text does not end", buf, len);
}

static void check_frame(const SpanChanFrame *f, const uint8_t *buf, size_t len)
{
	static uint8_t again[SPAN_CHAN_MAX];

	if (span_chan_encode(f, again) != len || memcmp(again, buf, len))
		die("what was decoded encodes to something else", buf, len);
	if (f->type == SPAN_CHAN_REFUSE || f->type == SPAN_CHAN_FAILED)
		check_text(f->u.text, sizeof(f->u.text), buf, len);
	if (f->type == SPAN_CHAN_SECTION) {
		check_text(f->u.section.name, sizeof(f->u.section.name), buf, len);
		span_chan_sum(rnd64(), f);
	}
	by_type[f->type]++;
	decoded++;
}

/* One end of a connection, reading to the first error or the end. */
static void read_stream(const uint8_t *stream, size_t len)
{
	static uint8_t room[SPAN_CHAN_MAX];
	uint64_t seq = 0;
	size_t pos = 0, have, take;
	SpanChanFrame frame;
	uint8_t *exact;
	int want, ret;

	for (;;) {
		for (have = 0; (want = span_chan_want(room, have)) > 0; have += take, pos += take) {
			if (have + want > sizeof(room))
				die("wants more than there is room", room, have);
			take = 1 + rnd() % want;
			if (take > len - pos)
				return;
			memcpy(room + have, stream + pos, take);
		}
		if (want < 0) {
			refused[-want]++;
			return;
		}
		/* of exactly its size, so that one byte too many is noticed */
		exact = malloc(have);
		memcpy(exact, room, have);
		ret = span_chan_decode(exact, have, ++seq, &frame);
		if (!ret)
			check_frame(&frame, exact, have);
		free(exact);
		if (ret) {
			refused[-ret]++;
			return;
		}
	}
}

static size_t make_stream(uint8_t *stream, size_t room)
{
	uint64_t seq = 0;
	size_t len = 0, size;
	SpanChanFrame f;

	if (rnd() % 16 == 0) {
		for (len = 0; len < 256; len++)
			stream[len] = rnd();
		return len;
	}
	while (len < room / 2 && (len == 0 || rnd() % 8)) {
		random_frame(&f, ++seq);
		size = span_chan_size(&f);
		if (len + size > room / 2)
			break;
		len += span_chan_encode(&f, stream + len);
	}
	return len;
}

static bool enough(uint64_t rounds)
{
	int i;

	for (i = 1; i < SPAN_CHAN_TYPES; i++) {
		if (!by_type[i]) {
			printf("# no frame of type %s was decoded\n", span_chan_type_str(i));
			return false;
		}
	}
	for (i = -SPAN_CHAN_E_MAGIC; i <= -SPAN_CHAN_E_SEQ; i++) {
		if (!refused[i]) {
			printf("# nothing was refused for: %s\n", span_chan_strerror(-i));
			return false;
		}
	}
	return decoded > rounds;
}

int main(int argc, char **argv)
{
	uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : 100000, i;
	static uint8_t stream[STREAM];
	size_t len, n;
	bool ok;

	seed_state = argc > 2 ? strtoull(argv[2], NULL, 0) : 0x5350414e;
	for (i = 0; i < rounds; i++) {
		len = make_stream(stream, sizeof(stream));
		for (n = rnd() % 5; n && len; n--)
			len = mutate(stream, len, sizeof(stream));
		read_stream(stream, len);
	}
	ok = enough(rounds);
	printf("TAP version 13\n1..1\n# %llu frames in %llu streams\n%sok 1 span-chan\n",
	       (unsigned long long)decoded, (unsigned long long)rounds, ok ? "" : "not ");
	return !ok;
}
