package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"taskguide/memory"
)

// Version is the format's. A reader refuses another.
const Version = 1

// Header is the first line of a trace.
type Header struct {
	Trace      int       `json:"trace"` // Version
	Name       string    `json:"name"`  // of the VM, or of what a generator has made
	VMM        string    `json:"vmm"`   // the version that recorded it
	Begun      time.Time `json:"begun"`
	Pages      int       `json:"pages"`
	PageBytes  int       `json:"page_bytes"`
	CPUs       int       `json:"cpus"`
	Tracker    string    `json:"tracker"` // how pages were found; see package dirtylog
	IntervalUS int64     `json:"interval_us"`
	Contents   Contents  `json:"-"` // on the second line
}

// Contents is the second line: what was in the guest's memory at the first moment.
type Contents struct {
	Populated *Set `json:"populated"` // what the host backed with memory
	Zero      *Set `json:"zero"`      // the pages of these that held nothing but zero
	// Samples are random pages that were not zero, and what they compress to.
	Samples []Sample `json:"samples"`
	// Together is how many bytes zstd makes of all samples, one after another, as in a frame of a
	// migration: pages that resemble each other take less so. Traces of earlier versions have 0.
	Together int `json:"samples_bytes,omitempty"`
	// TookUS is how many us that took on the recording host, the fastest of a few times. How long a
	// page takes depends on what is in it, by a factor of four and more. 0 is unknown.
	TookUS int64 `json:"samples_us,omitempty"`
}

// Wrote adds pages that the guest has written since the look, or while it lasted: there is memory
// behind them, and they may hold anything.
func (c *Contents) Wrote(pages *memory.Bitmap) error {
	populated, zero := memory.NewBitmap(pages.Len()), memory.NewBitmap(pages.Len())
	if err := errors.Join(c.Populated.AddTo(populated), c.Zero.AddTo(zero)); err != nil {
		return err
	}
	populated.Or(pages)
	zero.AndNot(pages)
	c.Populated, c.Zero = NewSet(populated), NewSet(zero)
	return nil
}

// Sample is a page and how many bytes zstd (RFC 8878) makes of it, on its fastest level.
type Sample struct {
	Page  int `json:"page"`
	Bytes int `json:"bytes"`
}

// Packed is what zstd, on its fastest level, makes of random pages of an interval, in one frame:
// what is in a page changes, and with it what it compresses to. Zero pages are not among them.
type Packed struct {
	Pages int   `json:"pages"`
	Bytes int   `json:"bytes"`
	US    int64 `json:"us"` // of a processor, the faster of two times
}

// Record is a line after the first.
type Record struct {
	AtUS  int64 `json:"at_us"`
	Dirty *Set  `json:"dirty,omitempty"`
	// TookUS is how long the harvest took, which protects the pages again.
	TookUS int64 `json:"took_us,omitempty"`
	// Packed is what some of Dirty compress to; most intervals have none.
	Packed *Packed         `json:"packed,omitempty"`
	Event  json.RawMessage `json:"event,omitempty"`
	End    *End            `json:"end,omitempty"`
}

// End says what a recording had and cost.
type End struct {
	Why       string `json:"why"` // in words
	Intervals int    `json:"intervals"`
	Late      int    `json:"late"` // intervals of more than 1.5 times the length ordered
	// Faults is how many pages all intervals have. The guest pays one fault in KVM for each,
	// because its first write to a page in an interval finds it protected.
	Faults int64 `json:"faults"`
	// HarvestUS is the time of all harvests, on a processor of the host.
	HarvestUS int64 `json:"harvest_us"`
	// PackUS is the time of all that Packed is about. The guest does not wait for it.
	PackUS int64 `json:"pack_us,omitempty"`
}

// maxPages is the size of the largest guest whose trace a reader takes: 4 TiB.
const maxPages = 1 << 30

// Sink takes the lines of a trace, in order: Begin and Contents once, then records.
type Sink interface {
	Begin(Header) error
	Contents(Contents) error
	Record(Record) error
}

// Writer is a Sink that writes a trace.
type Writer struct {
	zip *gzip.Writer
}

// NewWriter makes a writer of a trace.
func NewWriter(w io.Writer) *Writer { return &Writer{gzip.NewWriter(w)} }

func (t *Writer) line(v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		_, err = t.zip.Write(append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write a trace: %w", err)
	}
	return nil
}

// Begin implements [Sink].
func (t *Writer) Begin(h Header) error { return t.line(h) }

// Contents implements [Sink].
func (t *Writer) Contents(c Contents) error { return t.line(c) }

// Record implements [Sink].
func (t *Writer) Record(r Record) error { return t.line(r) }

// Flush writes what was compressed so far.
func (t *Writer) Flush() error { return t.zip.Flush() }

// Close writes what is left. It does not close the writer below.
func (t *Writer) Close() error { return t.zip.Close() }

// Reader reads a trace.
type Reader struct {
	Header  Header
	lines   *bufio.Reader
	longest int
	at      int64
	ended   bool
}

// NewReader reads the header. Traces come from other people: every set is checked against it.
func NewReader(r io.Reader) (*Reader, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("this is no trace: %w", cut(err))
	}
	t := &Reader{lines: bufio.NewReaderSize(zip, 64<<10), longest: spare}
	if err := t.decode(&t.Header); err != nil {
		return nil, fmt.Errorf("this is no trace: %w", err)
	}
	if err := t.Header.check(); err != nil {
		return nil, err
	}
	// A set is never longer than its bits in base64.
	set := t.Header.Pages/6 + 1
	t.longest = 2*set + spare
	if err := t.decode(&t.Header.Contents); err != nil {
		return nil, fmt.Errorf("a trace without contents: %w", err)
	}
	t.longest = set + spare
	return t, t.Header.Contents.check(t.Header.Pages)
}

// spare is how long a line may be beside its sets.
const spare = 256 << 10

// decode reads the next line into v.
func (t *Reader) decode(v any) error {
	text, err := t.line()
	if err != nil {
		return cut(err)
	}
	return json.Unmarshal(text, v)
}

// cut returns err, or what it means that a file ends where it must not.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (h *Header) check() error {
	switch {
	case h.Trace != Version:
		return fmt.Errorf("a trace of format %d, and this program reads %d", h.Trace, Version)
	case h.Pages <= 0 || h.Pages > maxPages || h.PageBytes != memory.PageSize:
		return fmt.Errorf("a trace of %d pages of %d bytes", h.Pages, h.PageBytes)
	case h.IntervalUS <= 0:
		return fmt.Errorf("a trace with intervals of %d us", h.IntervalUS)
	}
	return nil
}

func (c *Contents) check(pages int) error {
	if c.Populated == nil || c.Zero == nil {
		return errors.New("a trace that does not say which pages were populated and zero")
	}
	set := memory.NewBitmap(pages)
	if err := errors.Join(c.Populated.AddTo(set), c.Zero.AddTo(set)); err != nil {
		return err
	}
	if c.Together < 0 || c.TookUS < 0 {
		return fmt.Errorf("a trace whose samples take %d bytes and %d us", c.Together, c.TookUS)
	}
	for _, s := range c.Samples {
		if s.Page < 0 || s.Page >= pages || s.Bytes <= 0 {
			return fmt.Errorf("a trace with a sample of page %d, %d bytes", s.Page, s.Bytes)
		}
	}
	return nil
}

// Next returns the next record. It returns io.EOF after the end, and io.ErrUnexpectedEOF if the
// trace was cut off before it.
func (t *Reader) Next() (Record, error) {
	var r Record
	text, err := t.line()
	switch {
	case errors.Is(err, io.EOF) && t.ended:
		return r, io.EOF
	case errors.Is(err, io.EOF):
		return r, io.ErrUnexpectedEOF
	case err != nil:
		return r, fmt.Errorf("read a trace: %w", err)
	case t.ended:
		return r, errors.New("a trace that goes on after its end")
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("a trace's line: %w", err)
	}
	if r.AtUS < t.at {
		return r, fmt.Errorf("a trace that goes from %d us back to %d us", t.at, r.AtUS)
	}
	t.at, t.ended = r.AtUS, r.End != nil
	return r, nil
}

// line returns the next line, which must not be too long.
func (t *Reader) line() ([]byte, error) {
	var line []byte
	for {
		part, err := t.lines.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > t.longest:
			return nil, fmt.Errorf("a line of over %d bytes", t.longest)
		case err == nil:
			return bytes.TrimSpace(line), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			if len(line) > 0 {
				err = cut(err)
			}
			return nil, err
		}
	}
}
