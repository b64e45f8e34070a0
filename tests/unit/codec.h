/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is true of each codec of our frames (backends/span-*.c of the QEMU series), whatever
 * the frames mean: what is encoded decodes to the same bytes; nothing else decodes; a reader
 * that asks how much is wanted never reads past its buffer or into the next frame. Buffers
 * are allocated with their exact size, so that AddressSanitizer sees one byte too many.
 *
 * To be included after the codec, samples[] and
 *
 *	Frame			the type of a decoded frame
 *	CALL(name)		a function of the codec
 *	CONST(NAME)		a constant of it
 *	FIRST, LAST		types that there are
 *	ROOM			as many bytes as an encoded sample may have
 *	OTHER_MAGIC		another protocol's
 *	moved(frame, to, from)	what points into the buffer @from shall point into @to
 */

static int done, failed;

#define EXPECT(cond) do {						\
	if (!(cond)) {							\
		printf("# %s:%d: %s\n", __func__, __LINE__, #cond);	\
		return false;						\
	}								\
} while (0)

#define SAMPLES (sizeof(samples) / sizeof(samples[0]))

/* A copy of the frame in memory of exactly its size; the caller frees it. */
static uint8_t *exact(const uint8_t *buf, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	memcpy(copy, buf, len);
	return copy;
}

static int decode(const uint8_t *buf, size_t len, uint64_t seq, Frame *frame)
{
	uint8_t *copy = exact(buf, len);
	int ret = CALL(decode)(copy, len, seq, frame);

	if (!ret)
		moved(frame, buf, copy);
	free(copy);
	return ret;
}

/* What decodes encodes to the very bytes that it came from. */
static bool is_canonical(const uint8_t *buf, size_t len, const Frame *frame)
{
	uint8_t again[ROOM];

	return CALL(encode)(frame, again) == len && !memcmp(buf, again, len);
}

static bool every_truncation(void)
{
	uint8_t buf[ROOM];
	uint8_t *copy;
	size_t i, len, n;
	Frame out;
	int want;

	for (i = 0; i < SAMPLES; i++) {
		len = CALL(encode)(&samples[i], buf);
		for (n = 0; n < len; n++) {
			EXPECT(decode(buf, n, samples[i].seq, &out) < 0);
			copy = exact(buf, n);
			want = CALL(want)(copy, n);
			free(copy);
			/* the header first, then exactly the rest */
			EXPECT(want == (int)(n < CONST(HEADER) ? CONST(HEADER) - n : len - n));
		}
		EXPECT(CALL(want)(buf, len) == 0);
	}
	return true;
}

static bool longer_than_it_says(void)
{
	uint8_t buf[ROOM + 64] = { 0 };
	size_t i, len, n;
	Frame out;

	for (i = 0; i < SAMPLES; i++) {
		len = CALL(encode)(&samples[i], buf);
		for (n = len + 1; n <= len + 64; n++) {
			EXPECT(decode(buf, n, samples[i].seq, &out) == CONST(E_LEN));
			EXPECT(CALL(want)(buf, n) == CONST(E_LEN));
		}
	}
	return true;
}

/* A header field of each frame set to a value; the error that must follow. */
static bool header_case(size_t offset, size_t size, uint64_t value, int error)
{
	uint8_t buf[ROOM];
	size_t i, len;
	Frame out;

	for (i = 0; i < SAMPLES; i++) {
		len = CALL(encode)(&samples[i], buf);
		put_le(buf + offset, value, size);
		EXPECT(decode(buf, len, samples[i].seq, &out) == error);
		EXPECT(CALL(want)(buf, CONST(HEADER)) == error);
	}
	return true;
}

static bool bad_magic(void)
{
	return header_case(0, 4, 0, CONST(E_MAGIC)) &&
	       header_case(0, 4, CONST(MAGIC) ^ 1, CONST(E_MAGIC)) &&
	       header_case(0, 4, CONST(MAGIC) ^ 1u << 31, CONST(E_MAGIC)) &&
	       header_case(0, 4, __builtin_bswap32(CONST(MAGIC)), CONST(E_MAGIC)) &&
	       header_case(0, 4, OTHER_MAGIC, CONST(E_MAGIC));
}

static bool bad_version(void)
{
	return header_case(4, 2, 0, CONST(E_VERSION)) &&
	       header_case(4, 2, 2, CONST(E_VERSION)) &&
	       header_case(4, 2, 0x101, CONST(E_VERSION));
}

static bool bad_type(void)
{
	unsigned int type;

	for (type = 0; type <= UINT16_MAX; type++) {
		if (type >= FIRST && type <= LAST)
			continue;
		if (!header_case(6, 2, type, CONST(E_TYPE)))
			return false;
	}
	return true;
}

static bool bad_sequence(void)
{
	uint8_t buf[ROOM];
	size_t i, len;
	Frame out;

	for (i = 0; i < SAMPLES; i++) {
		len = CALL(encode)(&samples[i], buf);
		EXPECT(decode(buf, len, samples[i].seq + 1, &out) == CONST(E_SEQ));
		EXPECT(decode(buf, len, samples[i].seq - 1, &out) == CONST(E_SEQ));
		EXPECT(decode(buf, len, samples[i].seq ^ 1ull << 63, &out) == CONST(E_SEQ));
	}
	return true;
}

/* One field of a frame's payload set to a value that it must not have. */
static bool payload_case(size_t sample, size_t offset, size_t size, uint64_t value)
{
	uint8_t buf[ROOM];
	size_t len = CALL(encode)(&samples[sample], buf);
	Frame out;

	put_le(buf + CONST(HEADER) + offset, value, size);
	EXPECT(decode(buf, len, samples[sample].seq, &out) == CONST(E_PAYLOAD));
	return true;
}

/* A text in a frame's payload: from which character on, and may there be none? */
static bool text_case(size_t sample, size_t offset, size_t size, int least, bool empty)
{
	uint8_t buf[ROOM];
	uint8_t *text = buf + CONST(HEADER) + offset;
	size_t len = CALL(encode)(&samples[sample], buf);
	uint64_t seq = samples[sample].seq;
	Frame out;
	int c;

	for (c = 1; c < 256; c++) {
		text[2] = c;
		EXPECT((decode(buf, len, seq, &out) == CONST(OK)) == (c >= least && c < 0x7f));
	}
	/* nothing, no end, an end, something behind the end */
	memset(text, 0, size);
	EXPECT(decode(buf, len, seq, &out) == (empty ? CONST(OK) : CONST(E_PAYLOAD)));
	memset(text, 'x', size);
	EXPECT(decode(buf, len, seq, &out) == CONST(E_PAYLOAD));
	text[size - 1] = 0;
	EXPECT(decode(buf, len, seq, &out) == CONST(OK));
	text[4] = 0;
	EXPECT(decode(buf, len, seq, &out) == CONST(E_PAYLOAD));
	return true;
}

static bool messages(void)
{
	int i;

	for (i = 0; i >= CONST(E_SEQ); i--)
		EXPECT(strcmp(CALL(strerror)(i), "unknown error"));
	EXPECT(!strcmp(CALL(strerror)(1), "unknown error"));
	for (i = FIRST; i <= LAST; i++)
		EXPECT(strcmp(CALL(type_str)(i), "unknown"));
	EXPECT(!strcmp(CALL(type_str)(0), "unknown"));
	EXPECT(!strcmp(CALL(type_str)(LAST + 1), "unknown"));
	EXPECT(!strcmp(CALL(type_str)(UINT16_MAX), "unknown"));
	return true;
}

static bool every_bit_flipped(void)
{
	uint8_t buf[ROOM];
	size_t i, len, bit;
	Frame out;

	for (i = 0; i < SAMPLES; i++) {
		len = CALL(encode)(&samples[i], buf);
		for (bit = 0; bit < len * 8; bit++) {
			buf[bit / 8] ^= 1 << bit % 8;
			if (decode(buf, len, samples[i].seq, &out) == CONST(OK))
				EXPECT(is_canonical(buf, len, &out));
			buf[bit / 8] ^= 1 << bit % 8;
		}
	}
	return true;
}

struct codec_case {
	bool (*run)(void);
	const char *name;
};

static int run_cases(const struct codec_case *cases, size_t count)
{
	bool ok;
	size_t i;

	printf("TAP version 13\n1..%zu\n", count);
	for (i = 0; i < count; i++) {
		ok = cases[i].run();
		done++;
		failed += !ok;
		printf("%sok %d %s\n", ok ? "" : "not ", done, cases[i].name);
	}
	return failed ? 1 : 0;
}
