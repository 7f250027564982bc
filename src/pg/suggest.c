/*-------------------------------------------------------------------------
 *
 * suggest.c
 *	  "Did you mean ...": the candidate nearest to a misspelt name.
 *
 * Nearest by Levenshtein's distance, and near enough if at most half of the
 * wanted name's characters, and three at the most, would have to change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "suggest.h"
#include "utils/varlena.h"

/* varstr_levenshtein() takes no longer strings, and no name is */
#define MAX_NAME 255

/*
 * Begin the search for a name's neighbour
 */
void
moe_suggest_begin(MoeSuggestion *s, const char *wanted)
{
	s->wanted = wanted;
	s->best = NULL;
	s->distance = Min((int) strlen(wanted) / 2, 3);
}

/*
 * Take part in the search; a chosen candidate must live as long as s
 */
void
moe_suggest_candidate(MoeSuggestion *s, const char *candidate)
{
	int			bound = s->best ? s->distance - 1 : s->distance;
	int			distance;

	if (bound <= 0 || strlen(s->wanted) > MAX_NAME || strlen(candidate) > MAX_NAME)
		return;
	distance = varstr_levenshtein_less_equal(s->wanted, strlen(s->wanted),
											 candidate, strlen(candidate),
											 1, 1, 1, bound, true);
	if (distance <= bound)
	{
		s->best = candidate;
		s->distance = distance;
	}
}
