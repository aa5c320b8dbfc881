package policy

import "time"

// ForPages is what a limit of a downtime leaves to the pages: the limit without the parts that do
// not depend on them. These are an estimate, which may be wrong, so they take at most half of the
// limit. Otherwise a single slow answer could keep a migration from ever converging.
func ForPages(limit, fixed time.Duration) time.Duration {
	return limit - min(max(fixed, 0), limit/2)
}

// forPages is what a limit leaves to the pages at this event.
func (e Event) forPages(limit time.Duration) time.Duration { return ForPages(limit, e.Fixed) }
