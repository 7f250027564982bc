/*-------------------------------------------------------------------------
 *
 * suggest.h
 *	  "Did you mean ...": the candidate nearest to a misspelt name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_SUGGEST_H
#define MOE_SUGGEST_H

typedef struct MoeSuggestion
{
	const char *wanted;
	const char *best;			/* NULL while nothing is near enough */
	int			distance;		/* of best; more than this is not near enough */
} MoeSuggestion;

extern void moe_suggest_begin(MoeSuggestion *s, const char *wanted);
extern void moe_suggest_candidate(MoeSuggestion *s, const char *candidate);

#endif							/* MOE_SUGGEST_H */
