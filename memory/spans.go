package memory

// Span is a run of pages: the number of the first, and how many there are.
type Span struct{ First, Count int }

// End is the number of the page after the last.
func (s Span) End() int { return s.First + s.Count }

// Spans is a set of pages with few runs, in ascending order, which neither overlap nor touch.
type Spans []Span

// Pages is how many pages the set has.
func (s Spans) Pages() int {
	n := 0
	for _, span := range s {
		n += span.Count
	}
	return n
}

// Gaps returns the pages below n that are not in the set.
func (s Spans) Gaps(n int) Spans {
	var gaps Spans
	at := 0
	for _, span := range s {
		gaps = gaps.add(Span{at, span.First - at})
		at = span.End()
	}
	return gaps.add(Span{at, n - at})
}

// add adds a run, unless it is empty. It must not begin before the end of the last one.
func (s Spans) add(span Span) Spans {
	switch last := len(s) - 1; {
	case span.Count == 0:
		return s
	case last >= 0 && s[last].End() == span.First:
		s[last].Count += span.Count
		return s
	}
	return append(s, span)
}

// AddSpans adds to the set the pages of RAM among those from a guest-physical address on, in units
// of PageSize. What is not RAM is left out, so any numbers will do whose sum does not overflow. The
// addresses must come in ascending order, and must not overlap.
func (r *RAM) AddSpans(to Spans, first, pages uint64) Spans {
	for _, region := range r.Regions() {
		from := region.GPA / PageSize
		begin := max(first, from)
		end := min(first+pages, from+uint64(region.Pages))
		if begin < end {
			to = to.add(Span{region.First + int(begin-from), int(end - begin)})
		}
	}
	return to
}
