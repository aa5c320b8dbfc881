package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// serve answers requests of a redis by those answers, in order.
func serve(t *testing.T, answers ...string) *session {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	go func() {
		in := bufio.NewReader(there)
		for _, a := range answers {
			lines := 7 // of a SET
			if !strings.HasPrefix(a, "+") {
				lines = 5
			}
			for range lines {
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
			}
			_, _ = io.WriteString(there, a)
		}
		there.Close()
	}()
	return &session{
		dialect: dialects["redis"], conn: here, in: bufio.NewReader(here),
		written: make([]uint32, keys), meter: newMeter(keys, func(string) {}),
	}
}

func bulk(v []byte) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(v), v) }

// TestAnswersAreChecked: what was written last is right, and all else is not.
func TestAnswersAreChecked(t *testing.T) {
	last := bulk(value(7, 1))
	require.Len(t, value(7, 1), valueBytes)
	s := serve(t, "+OK\r\n", last)
	require.NoError(t, s.write(7))
	require.NoError(t, s.check(7))
	for name, answer := range map[string]string{
		"stale": bulk(value(7, 0)), "another key's": bulk(value(8, 1)), "none": "$-1\r\n",
		"cut off": last[:100],
	} {
		s := serve(t, "+OK\r\n", answer)
		require.NoError(t, s.write(7))
		require.Error(t, s.check(7), name)
	}
	require.Error(t, serve(t, "+NO\r\n").write(7))
}

// TestHeapIsChecked: every word and every piece counts.
func TestHeapIsChecked(t *testing.T) {
	rounds, warm := 0, 0
	m := newMeter(lists, func(line string) {
		if line == "workload ready" {
			warm++
		}
	})
	require.NoError(t, heap(m, func() bool { rounds++; return rounds < 100 }))
	require.Equal(t, 1, warm)
	require.EqualValues(t, lists+99, m.writes)
	p := listOf(3)
	require.NoError(t, checkList(3, p))
	require.Error(t, checkList(4, p))
	p.next.words[5]++
	require.Error(t, checkList(3, p))
	p = listOf(3)
	p.next.next = nil
	require.Error(t, checkList(3, p))
}
