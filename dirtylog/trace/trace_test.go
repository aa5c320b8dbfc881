package trace

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// TestSetsComeBack: every set is the same after a line of JSON, in either form, and the form is
// never longer than a bitmap in base64.
func TestSetsComeBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 1))
	forms := map[bool]int{}
	for range 2000 {
		pages := memory.NewBitmap(64 * (1 + rnd.IntN(40)))
		switch rnd.IntN(4) {
		case 0: // thin
			for range rnd.IntN(20) {
				pages.Set(rnd.IntN(pages.Len()))
			}
		case 1: // thick
			for range rnd.IntN(3 * pages.Len()) {
				pages.Set(rnd.IntN(pages.Len()))
			}
		case 2: // runs
			for range rnd.IntN(4) {
				first := rnd.IntN(pages.Len())
				pages.SetRange(first, rnd.IntN(pages.Len()-first+1))
			}
		}
		text, err := json.Marshal(NewSet(pages))
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), pages.Len()/6+20)
		var set Set
		require.NoError(t, json.Unmarshal(text, &set))
		got := memory.NewBitmap(pages.Len())
		require.NoError(t, set.AddTo(got))
		require.True(t, pages.Equal(got), "%s", text)
		forms[set.Bits != nil]++
	}
	require.Greater(t, forms[true], 100)
	require.Greater(t, forms[false], 100)
}

func TestSetsOutsideOfTheGuest(t *testing.T) {
	const far = int(^uint(0) >> 1)
	for _, set := range []Set{
		{Runs: []int{0, 65}}, {Runs: []int{64, 1}}, {Runs: []int{0, 1, 63, 1}}, {Runs: []int{0}},
		{Runs: []int{-1, 2}}, {Runs: []int{0, 0}}, {Runs: []int{1, -1}}, {Runs: []int{far, far}},
		{Runs: []int{1, far}}, {Bits: []byte{8: 1}}, {Runs: []int{0, 1}, Bits: []byte{1}},
	} {
		require.Error(t, set.AddTo(memory.NewBitmap(64)), "%+v", set)
	}
}

func testHeader() Header {
	return Header{
		Trace: Version, Name: "vm", Begun: time.Unix(1700000000, 0).UTC(), Pages: 128,
		PageBytes: memory.PageSize, CPUs: 1, IntervalUS: 1000,
		Contents: Contents{
			Populated: &Set{Runs: []int{0, 100}}, Zero: &Set{Runs: []int{10, 5}},
			Samples: []Sample{{Page: 3, Bytes: 1000}},
		},
	}
}

func testTrace(t testing.TB, records ...Record) []byte {
	var file bytes.Buffer
	w := NewWriter(&file)
	require.NoError(t, w.Begin(testHeader()))
	require.NoError(t, w.Contents(testHeader().Contents))
	for _, r := range records {
		require.NoError(t, w.Record(r))
	}
	require.NoError(t, w.Close())
	return file.Bytes()
}

func readAll(data []byte) (Header, []Record, error) {
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		return Header{}, nil, err
	}
	var records []Record
	pages := memory.NewBitmap(r.Header.Pages)
	for {
		record, err := r.Next()
		if err == nil && record.Dirty != nil {
			err = record.Dirty.AddTo(pages)
		}
		if err != nil {
			return r.Header, records, err
		}
		records = append(records, record)
	}
}

func TestTraceComesBack(t *testing.T) {
	want := []Record{
		{AtUS: 1000, Dirty: &Set{Runs: []int{1, 2}}, TookUS: 7},
		{AtUS: 1500, Event: json.RawMessage(`{"kind":"tag"}`)},
		{AtUS: 2000, Dirty: &Set{Runs: []int{}}},
		{AtUS: 2000, End: &End{Why: "done", Intervals: 2}},
	}
	data := testTrace(t, want...)
	header, got, err := readAll(data)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, testHeader(), header)
	require.Equal(t, want, got)

	_, got, err = readAll(testTrace(t, want[:2]...))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "without an end")
	require.Len(t, got, 2)
	_, _, err = readAll(testTrace(t, want[2], want[0]))
	require.ErrorContains(t, err, "back")
	_, _, err = readAll(testTrace(t, want[3], want[3]))
	require.ErrorContains(t, err, "after its end")
	for cut := range data {
		_, _, err := readAll(data[:cut])
		require.NotErrorIs(t, err, io.EOF, "cut at %d", cut)
	}
}

// TestLongLines: a reader takes no line that no trace of that size can have.
func TestLongLines(t *testing.T) {
	long := json.RawMessage(`"` + string(bytes.Repeat([]byte("x"), spare+100)) + `"`)
	_, _, err := readAll(testTrace(t, Record{Event: long}))
	require.ErrorContains(t, err, "a line of over")
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("{}\n"))
	plain, err := gzip.NewReader(bytes.NewReader(testTrace(f,
		Record{AtUS: 5, Dirty: &Set{Bits: []byte{1, 2}}}, Record{AtUS: 6, End: &End{}})))
	require.NoError(f, err)
	text, err := io.ReadAll(plain)
	require.NoError(f, err)
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<20 {
			return
		}
		var file bytes.Buffer
		zip := gzip.NewWriter(&file)
		_, _ = zip.Write(text)
		_ = zip.Close()
		header, _, err := readAll(file.Bytes())
		require.Error(t, err, "at least the end")
		require.LessOrEqual(t, header.Pages, maxPages)
	})
}
