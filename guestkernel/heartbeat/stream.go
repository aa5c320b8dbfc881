package heartbeat

import (
	"bytes"
	"time"
)

// longestLine is more than a heartbeat has. The rest of a longer line is not looked at.
const longestLine = 4096

// Stream finds heartbeats in output of any guest, and keeps no more of it than an unfinished line.
// The zero value begins at the beginning of a line. It is not safe for concurrent use.
type Stream struct {
	line []byte // the unfinished line
	skip bool   // it is no heartbeat
}

// SkipLine ignores what is left of the line under way, whose beginning this stream has not seen.
func (s *Stream) SkipLine() { s.line, s.skip = s.line[:0], true }

// Feed takes the next piece of output, and calls found for each heartbeat that it completes.
func (s *Stream) Feed(p []byte, found func(Beat)) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		piece := p
		if end >= 0 {
			piece = p[:end]
		}
		if s.skip = s.skip || len(s.line)+len(piece) > longestLine; !s.skip {
			s.line = append(s.line, piece...)
		}
		if end < 0 {
			return
		}
		if b, ok := Parse(string(s.line)); ok && !s.skip {
			b.At = time.Now()
			found(b)
		}
		s.line, s.skip, p = s.line[:0], false, p[end+1:]
	}
}
