/*
 * The estimate: the cheapest way to put a password together from patterns and single characters.
 *
 * A pattern's cost is that of saying which kind it is, and of choosing within its kind. Mirrors
 * src/cloister/protocol/passwords/{estimate,patterns,words}.py: whatever is changed here is changed there, in the same
 * order of floating-point operations.
 */
#include "estimate.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Generated from words.txt by guard/build.py: word_bytes, word_starts (one more than words), word_ranks; sorted. */
#include "words.inc"

#define PATTERN_BITS 2.0

#define LETTERS 26
#define DIGITS 10
#define SIGNS 33
#define OTHERS 96

#define SIGN_AGAIN_BITS 2.0
#define USES_MAX 2
#define LEAST_GAIN 1e-9

#define WORD_LENGTH_MIN 3
#define WORD_LENGTH_MAX 24
#define CONTEXT_WORDS_MAX 32
#define CONTEXT_LENGTH_MAX 64	/* bytes of a name in PostgreSQL, and more than characters of it */

#define REVERSED_BITS 1.0
#define REVERSED_LENGTH_MIN 4
#define COPY_LENGTH_MIN 3
#define COPY_CASE_BITS 2.0
#define MIRROR_LENGTH_MIN 4
#define RUN_LENGTH_MIN 3
#define STEP_MAX 5
#define DOWN_BITS 1.0
#define STRIDE_BITS 3.0
#define KEYS 47
#define TURN_BITS 2.5
#define TURNED_LENGTH_MIN 4
#define YEARS 200
#define DAYS 366
#define SEPARATOR_BITS 2.0
#define YEAR_MIN 1900
#define YEAR_MAX 2099

typedef uint32_t Character;

typedef struct Word
{
	int			length;
	Character	characters[CONTEXT_LENGTH_MAX];
} Word;

typedef struct Search
{
	int			length;
	Character	text[CHARACTERS_MAX];
	Character	spellings[3][CHARACTERS_MAX];	/* in small letters; with figures read as letters, in two ways */
	Word		context[CONTEXT_WORDS_MAX];
	int			names;
	double		cost[CHARACTERS_MAX + 1];
	unsigned	kinds[CHARACTERS_MAX + 1];
} Search;

#define LOWER(search) ((search)->spellings[0])

static bool
is_lower(Character c)
{
	return c >= 'a' && c <= 'z';
}

static bool
is_upper(Character c)
{
	return c >= 'A' && c <= 'Z';
}

static bool
is_digit(Character c)
{
	return c >= '0' && c <= '9';
}

/* Whatever is not ASCII counts as a letter. */
static bool
is_letter_or_digit(Character c)
{
	return is_lower(c) || is_upper(c) || is_digit(c) || c > 0x7f;
}

static bool
is_sign(Character c)
{
	return !is_letter_or_digit(c);
}

static Character
folded(Character c)
{
	return is_upper(c) ? c + ('a' - 'A') : c;
}

static int
smaller(int a, int b)
{
	return a < b ? a : b;
}

/* One character; a byte that does not start a well-formed one is given as Python's surrogateescape gives it. */
static Character
next_character(const unsigned char **place, const unsigned char *end)
{
	const unsigned char *s = *place;
	Character	c = s[0];
	int			more,
				i;

	*place = s + 1;
	if (c < 0x80)
		return c;
	if (c >= 0xc2 && c <= 0xdf)
		more = 1;
	else if (c >= 0xe0 && c <= 0xef)
		more = 2;
	else if (c >= 0xf0 && c <= 0xf4)
		more = 3;
	else
		return 0xdc00 + c;
	if (end - s <= more)
		return 0xdc00 + c;
	/* Overlong forms, surrogates and what lies beyond Unicode. */
	if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) || (c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] > 0x8f))
		return 0xdc00 + c;
	for (i = 1; i <= more; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0xdc00 + c;
	c &= 0x3f >> more;
	for (i = 1; i <= more; i++)
		c = (c << 6) | (s[i] & 0x3f);
	*place = s + 1 + more;
	return c;
}

/* Reading the context. */

static void
add_name(Search *search, const Character *characters, int length)
{
	Word	   *word;
	int			i;

	if (length < WORD_LENGTH_MIN || search->names == CONTEXT_WORDS_MAX)
		return;
	for (i = 0; i < search->names; i++)
	{
		word = &search->context[i];
		if (word->length == length && memcmp(word->characters, characters, length * sizeof(Character)) == 0)
			return;
	}
	word = &search->context[search->names++];
	word->length = length;
	memcpy(word->characters, characters, length * sizeof(Character));
}

/* The name itself, and the parts between what is neither a letter nor a digit. */
static void
read_name(Search *search, const char *name)
{
	const unsigned char *place = (const unsigned char *) name;
	const unsigned char *end = place + strlen(name);
	Character	characters[CONTEXT_LENGTH_MAX];
	int			length = 0,
				from = 0,
				i;

	while (place < end && length < CONTEXT_LENGTH_MAX)
		characters[length++] = folded(next_character(&place, end));
	add_name(search, characters, length);
	for (i = 0; i <= length; i++)
		if (i == length || !is_letter_or_digit(characters[i]))
		{
			add_name(search, characters + from, i - from);
			from = i + 1;
		}
}

static Character
meant(Character c, Character one)
{
	switch (c)
	{
		case '4':
		case '@':
			return 'a';
		case '8':
			return 'b';
		case '(':
			return 'c';
		case '3':
			return 'e';
		case '6':
		case '9':
			return 'g';
		case '1':
			return one;
		case '!':
			return 'i';
		case '|':
			return 'l';
		case '0':
			return 'o';
		case '$':
		case '5':
			return 's';
		case '7':
		case '+':
			return 't';
		case '2':
			return 'z';
		default:
			return c;
	}
}

/* The dynamic programme: the cheapest way to each place, from those before. */
static void
relax(Search *search, int start, int end, double bits, unsigned kind)
{
	if (search->cost[start] + bits < search->cost[end] - LEAST_GAIN)
	{
		search->cost[end] = search->cost[start] + bits;
		search->kinds[end] = search->kinds[start] | kind;
	}
}

/* Nothing for small letters, little for the usual ways of using capitals, more for others. */
static double
case_bits(const Search *search, int start, int length)
{
	const Character *part = search->text + start;
	int			upper = 0,
				letters = 0,
				i;

	for (i = 0; i < length; i++)
	{
		upper += is_upper(part[i]);
		letters += is_upper(part[i]) || is_lower(part[i]);
	}
	if (upper == 0)
		return 0.0;
	if (upper == letters || (upper == 1 && (is_upper(part[0]) || is_upper(part[length - 1]))))
		return 1.0;
	return 1.0 + smaller(upper, letters - upper);
}

/* Words. */

/* How many words are tried before this one and with it; 0 if it is none of them. */
static int
rank_of(const Character *characters, int length, bool is_reversed)
{
	char		word[WORD_LENGTH_MAX];
	uint32_t	low = 0,
				high = WORD_COUNT;
	int			i;

	for (i = 0; i < length; i++)
	{
		if (characters[i] > 0x7f)
			return 0;
		word[is_reversed ? length - 1 - i : i] = (char) characters[i];
	}
	while (low < high)
	{
		uint32_t	middle = low + (high - low) / 2;
		int			size = (int) (word_starts[middle + 1] - word_starts[middle]);
		int			order = memcmp(word, word_bytes + word_starts[middle], smaller(length, size));

		if (order == 0)
			order = length - size;
		if (order == 0)
			return word_ranks[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return 0;
}

static bool
is_name(const Word *name, const Character *characters, bool is_reversed)
{
	int			i;

	for (i = 0; i < name->length; i++)
		if (characters[i] != name->characters[is_reversed ? name->length - 1 - i : i])
			return false;
	return true;
}

/* What may be meant by `length` characters: as they stand, with figures read as letters, and each of these backwards.
 * `name` is what to look for; NULL for the words that everybody knows. */
static void
find_readings(Search *search, int start, int length, const Word *name)
{
	int			spelling,
				backwards,
				i;

	for (spelling = 0; spelling < 3; spelling++)
	{
		const Character *characters = search->spellings[spelling] + start;
		int			substituted = 0;

		for (i = 0; i < length; i++)
			substituted += characters[i] != LOWER(search)[start + i];
		if (spelling > 0 && substituted == 0)
			continue;
		for (backwards = 0; backwards <= (length >= REVERSED_LENGTH_MIN); backwards++)
		{
			int			rank = name == NULL ? rank_of(characters, length, backwards)
				: is_name(name, characters, backwards);
			double		bits;

			if (rank == 0)
				continue;
			bits = PATTERN_BITS + log2(rank) + case_bits(search, start, length) + substituted;
			relax(search, start, start + length, backwards ? bits + REVERSED_BITS : bits,
				  name == NULL ? KIND_WORD : KIND_CONTEXT);
		}
	}
}

static void
find_words(Search *search, int start)
{
	int			left = search->length - start,
				length,
				i;

	for (length = WORD_LENGTH_MIN; length <= smaller(WORD_LENGTH_MAX, left); length++)
		find_readings(search, start, length, NULL);
	for (i = 0; i < search->names; i++)
		if (search->context[i].length <= left)
			find_readings(search, start, search->context[i].length, &search->context[i]);
}

/* What was there before. */

static int
longest_same(const Character *text, int length, int start)
{
	int			longest = 0,
				earlier;

	for (earlier = 0; earlier < start; earlier++)
	{
		int			same = 0;

		while (start + same < length && text[earlier + same] == text[start + same])
			same++;
		if (same > longest)
			longest = same;
	}
	return longest;
}

/* How much of what was before, read backwards from anywhere, follows from `start`. */
static int
longest_mirrored(const Character *text, int length, int start)
{
	int			longest = 0,
				earlier;

	for (earlier = 1; earlier <= start; earlier++)
	{
		int			same = 0;

		while (same < earlier && start + same < length && text[earlier - 1 - same] == text[start + same])
			same++;
		if (same > longest)
			longest = same;
	}
	return longest;
}

/* As in a compressor: so many characters again from there. The copy may run into itself. */
static void
find_copies(Search *search, int start)
{
	double		where;
	int			exact,
				similar,
				mirrored,
				length;

	if (start == 0)
		return;
	where = PATTERN_BITS + log2(start);
	exact = longest_same(search->text, search->length, start);
	similar = longest_same(LOWER(search), search->length, start);
	length = search->text[start - 1] == search->text[start] ? 2 : COPY_LENGTH_MIN;
	for (; length <= similar; length++)
	{
		double		bits = where + log2(length);

		relax(search, start, start + length, length <= exact ? bits : bits + COPY_CASE_BITS, KIND_REPEAT);
	}
	mirrored = longest_mirrored(LOWER(search), search->length, start);
	for (length = MIRROR_LENGTH_MIN; length <= mirrored; length++)
		relax(search, start, start + length, where + log2(length) + REVERSED_BITS + COPY_CASE_BITS, KIND_REPEAT);
}

/* What goes on by itself. */

/* How many one could have started with; 0 for signs, which have no order that people know. */
static int
script_size(Character c)
{
	if (is_lower(c))
		return LETTERS;
	if (is_digit(c))
		return DIGITS;
	return c > 0x7f ? OTHERS : 0;
}

static void
find_sequences(Search *search, int start)
{
	const Character *text = LOWER(search);
	int			size,
				end;
	int64_t		step;
	double		choice;

	if (start + 1 >= search->length)
		return;
	size = script_size(text[start]);
	step = (int64_t) text[start + 1] - (int64_t) text[start];
	if (size == 0 || step == 0 || step > STEP_MAX || step < -STEP_MAX)
		return;
	choice = PATTERN_BITS + log2(size) + (step == 1 ? 0.0 : step == -1 ? DOWN_BITS : STRIDE_BITS);
	for (end = start + 1; end < search->length; end++)
	{
		int			length = end + 1 - start;

		if ((int64_t) text[end] - (int64_t) text[end - 1] != step || script_size(text[end]) != size)
			break;
		if (length >= RUN_LENGTH_MIN)
			relax(search, start, end + 1, choice + log2(length) + case_bits(search, start, length), KIND_SEQUENCE);
	}
}

static const char *const key_rows[2][4] = {
	{"`1234567890-=", " qwertyuiop[]\\", " asdfghjkl;'", " zxcvbnm,./"},
	{"~!@#$%^&*()_+", " QWERTYUIOP{}|", " ASDFGHJKL:\"", " ZXCVBNM<>?"},
};

static bool
find_key(Character c, int *x, int *y, int *is_shifted)
{
	if (c <= ' ' || c > 0x7f)
		return false;
	for (*is_shifted = 0; *is_shifted < 2; ++*is_shifted)
		for (*y = 0; *y < 4; ++*y)
		{
			const char *row = key_rows[*is_shifted][*y];
			const char *key = strchr(row, (int) c);

			if (key != NULL)
			{
				*x = (int) (key - row);
				return true;
			}
		}
	return false;
}

/* Each row of keys stands half a key to the right of the one above. */
static bool
are_neighbours(int dx, int dy)
{
	return (dy == 0 && (dx == 1 || dx == -1)) || (dy == -1 && (dx == 0 || dx == 1)) || (dy == 1 && (dx == 0 || dx == -1));
}

/* Along a keyboard, from key to neighbouring key. */
static void
find_walks(Search *search, int start)
{
	int			x,
				y,
				is_shifted,
				next_x,
				next_y,
				dx = 0,
				dy = 0,
				turns = 0,
				shifted = 0,
				end = start;

	if (!find_key(search->text[start], &x, &y, &is_shifted))
		return;
	for (;;)
	{
		int			length = ++end - start;

		shifted += is_shifted;
		if (length >= (turns ? TURNED_LENGTH_MIN : RUN_LENGTH_MIN))
		{
			double		bits = PATTERN_BITS + log2(KEYS) + log2(length) + TURN_BITS * turns;
			double		shift_bits = shifted == 0 ? 0.0 : shifted == length ? 1.0
				: 1.0 + smaller(shifted, length - shifted);

			relax(search, start, end, bits + shift_bits, KIND_KEYBOARD);
		}
		if (end == search->length || !find_key(search->text[end], &next_x, &next_y, &is_shifted))
			return;
		if (!are_neighbours(next_x - x, next_y - y))
			return;
		turns += length > 1 && (next_x - x != dx || next_y - y != dy);
		dx = next_x - x;
		dy = next_y - y;
		x = next_x;
		y = next_y;
	}
}

/* -1 if there are not so many digits. */
static int
number_at(const Search *search, int start, int length)
{
	int			value = 0,
				i;

	if (start + length > search->length)
		return -1;
	for (i = start; i < start + length; i++)
	{
		if (!is_digit(search->text[i]))
			return -1;
		value = value * 10 + (int) (search->text[i] - '0');
	}
	return value;
}

static bool
is_possible(char part, int value, int length)
{
	if (part == 'd')
		return value >= 1 && value <= 31;
	if (part == 'm')
		return value >= 1 && value <= 12;
	return length == 2 || (value >= YEAR_MIN && value <= YEAR_MAX);
}

/* Where the date ends, if there is one with these parts; else -1. */
static int
date_end(const Search *search, int place, const char *order, const int *lengths, bool is_separated)
{
	Character	separator = 0;
	int			i;

	for (i = 0; i < 3; i++)
	{
		int			value;

		if (is_separated && i > 0)
		{
			Character	c = place < search->length ? search->text[place] : 0;

			if (c == 0 || c > 0x7f || strchr("-/._ ", (int) c) == NULL || (separator != 0 && c != separator))
				return -1;
			separator = c;
			place++;
		}
		value = number_at(search, place, lengths[i]);
		if (value < 0 || !is_possible(order[i], value, lengths[i]))
			return -1;
		place += lengths[i];
	}
	return place;
}

static void
find_dates(Search *search, int start)
{
	static const char *const orders[3] = {"dmy", "mdy", "ymd"};
	int			year,
				order,
				separated,
				day,
				month,
				i;

	if (!is_digit(search->text[start]))
		return;
	year = number_at(search, start, 4);
	if (year >= YEAR_MIN && year <= YEAR_MAX)
		relax(search, start, start + 4, PATTERN_BITS + log2(YEARS), KIND_DATE);
	for (order = 0; order < 3; order++)
		for (separated = 0; separated < 2; separated++)
			for (day = separated ? 1 : 2; day <= 2; day++)
				for (month = separated ? 1 : 2; month <= 2; month++)
					for (year = 2; year <= 4; year += 2)
					{
						int			lengths[3],
									end;
						double		bits = PATTERN_BITS + log2(YEARS * DAYS);

						for (i = 0; i < 3; i++)
							lengths[i] = orders[order][i] == 'd' ? day : orders[order][i] == 'm' ? month : year;
						end = date_end(search, start, orders[order], lengths, separated);
						if (end > 0)
							relax(search, start, end, separated ? bits + SEPARATOR_BITS : bits, KIND_DATE);
					}
}

/* How many characters there are of the classes that it uses. */
static int
alphabet(const Search *search)
{
	bool		has_lower = false,
				has_upper = false,
				has_digit = false,
				has_sign = false,
				has_other = false;
	int			i;

	for (i = 0; i < search->length; i++)
	{
		Character	c = search->text[i];

		has_lower |= is_lower(c);
		has_upper |= is_upper(c);
		has_digit |= is_digit(c);
		has_sign |= is_sign(c);
		has_other |= c > 0x7f;
	}
	return LETTERS * has_lower + LETTERS * has_upper + DIGITS * has_digit + SIGNS * has_sign + OTHERS * has_other;
}

static int
uses_before(const Search *search, const bool *is_counted, int place)
{
	int			uses = 0,
				i;

	for (i = 0; i < place; i++)
		uses += is_counted[i] && search->text[i] == search->text[place];
	return uses;
}

static void
find_cheapest(Search *search)
{
	double		each = log2(alphabet(search));
	int			i,
				start;

	search->cost[0] = 0.0;
	search->kinds[0] = 0;
	for (i = 1; i <= search->length; i++)
	{
		search->cost[i] = INFINITY;
		search->kinds[i] = 0;
	}
	for (start = 0; start < search->length; start++)
	{
		double		single = each;

		for (i = 0; i < start && is_sign(search->text[start]); i++)
			if (search->text[i] == search->text[start] && each > SIGN_AGAIN_BITS)
				single = SIGN_AGAIN_BITS;	/* the second dash between words says less than the first */
		relax(search, start, start + 1, single, 0);
		find_words(search, start);
		find_copies(search, start);
		find_sequences(search, start);
		find_walks(search, start);
		find_dates(search, start);
	}
}

/* Characters times what each could be; runs count as two characters, and none counts more than USES_MAX times. */
static double
counted_bits(const Search *search)
{
	const Character *lower = LOWER(search);
	bool		is_counted[CHARACTERS_MAX] = {false};
	int			counted = 0,
				i;

	for (i = 0; i < search->length; i++)
	{
		if (i >= 2)
		{
			int64_t		step = (int64_t) lower[i] - (int64_t) lower[i - 1];

			if (step >= -1 && step <= 1 && step == (int64_t) lower[i - 1] - (int64_t) lower[i - 2])
				continue;
		}
		counted += uses_before(search, is_counted, i) < USES_MAX;
		is_counted[i] = true;
	}
	return counted * log2(alphabet(search));
}

Estimate
estimate_password(const char *password, size_t length, const char *const *context, size_t names, EstimatePolicy policy)
{
	const unsigned char *place = (const unsigned char *) password;
	const unsigned char *end = place + length;
	Estimate	estimate = {0.0, 0, 0};
	Search		search;
	size_t		i;

	search.length = 0;
	search.names = 0;
	while (place < end)
	{
		Character	c = next_character(&place, end);

		estimate.characters++;
		if (search.length < CHARACTERS_MAX)
		{
			search.text[search.length] = c;
			search.spellings[0][search.length] = folded(c);
			search.spellings[1][search.length] = meant(folded(c), 'i');
			search.spellings[2][search.length] = meant(folded(c), 'l');
			search.length++;
		}
	}
	if (search.length > 0 && policy == POLICY_NEON)
		estimate.bits = counted_bits(&search);
	else if (search.length > 0)
	{
		for (i = 0; i < names; i++)
			read_name(&search, context[i]);
		find_cheapest(&search);
		estimate.bits = search.cost[search.length];
		estimate.kinds = search.kinds[search.length];
	}
	explicit_bzero(&search, sizeof(search));
	return estimate;
}

int
estimate_is_enough(const Estimate *estimate, EstimatePolicy policy)
{
	return estimate->bits >= BITS_REQUIRED && (policy == POLICY_NEON || estimate->characters >= CHARACTERS_REQUIRED);
}

void
estimate_why(const Estimate *estimate, EstimatePolicy policy, char *place)
{
	static const char *const words[] = {
		"a common word, name or password", "the name of the role or database", "a repetition", "a sequence",
		"neighbouring keys", "a date or year",
	};
	char	   *end = place + ESTIMATE_WHY_MAX;
	unsigned	kind,
				left = estimate->kinds;

	*place = '\0';
	for (kind = 0; left != 0; kind++)
	{
		unsigned	bit = 1U << kind;

		if ((left & bit) == 0)
			continue;
		left &= ~bit;
		place += snprintf(place, end - place, "%s%s",
						  left == (estimate->kinds & ~bit) ? "it contains " : left == 0 ? " and " : ", ",
						  words[kind]);
	}
	if (policy == POLICY_STRICT && estimate->characters < CHARACTERS_REQUIRED)
		snprintf(place, end - place, "%sit has %zu of at least %d characters", estimate->kinds ? "; " : "",
				 estimate->characters, CHARACTERS_REQUIRED);
	else if (estimate->kinds == 0)
		snprintf(place, end - place, "it is too short for the characters it is made of");
}
