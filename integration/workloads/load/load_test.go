package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/integration/need"
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

// answering starts sqlite's shell as a script that gives these answers, in order.
func answering(t *testing.T, answers ...string) *shell {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\n"
	for _, a := range answers {
		script += "read -r line && echo '" + a + "'\n"
	}
	script += "read -r line\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sqlite3"), []byte(script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s, err := startShell("/db")
	require.NoError(t, err)
	return s
}

// TestTransactionsAreChecked: each must be committed, and now and then the database must be whole
// and have all that the last one wrote.
func TestTransactionsAreChecked(t *testing.T) {
	good := []string{
		"new", "0 committed", "ok", "2000", "1 committed", "2 committed", "3 committed",
	}
	var said []string
	m := newMeter(tableRows, func(line string) { said = append(said, line) })
	n := 0
	require.NoError(t, sqlite(m, answering(t, good...), func() bool { n++; return n <= 4 }))
	require.Equal(t, []string{"workload ready"}, said)
	require.EqualValues(t, 4*transactionRows, m.writes)
	require.EqualValues(t, 1, m.latency.count, "those before are not of the run")
	for at, wrong := range []string{"", "1 committed", "a page is corrupt", "1999"} {
		bad := slices.Clone(good)
		bad[at] = wrong
		err := sqlite(newMeter(tableRows, func(string) {}), answering(t, bad...),
			func() bool { return true })
		require.ErrorContains(t, err, "where \""+good[at]+"\" was due")
	}
	require.ErrorContains(t, sqlite(m, answering(t, good[:2]...), func() bool { return true }),
		"sqlite3 has ended")
}

// TestTransactionsInSQLite: sqlite itself takes them.
func TestTransactionsInSQLite(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		need.Skip(t, "sqlite3 is not installed")
	}
	s, err := startShell(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	n := 0
	require.NoError(t, sqlite(newMeter(tableRows, func(string) {}), s, func() bool {
		n++
		return n <= checkEvery+2
	}))
	rows := min(tableRows, (checkEvery+2)*transactionRows)
	require.NoError(t, s.ask(fmt.Sprint(rows), "select count(*) from t;"))
}

// TestBuildIsChecked: its lines are steps, and it must end well each time.
func TestBuildIsChecked(t *testing.T) {
	var said []string
	m := newMeter(buildLines, func(line string) { said = append(said, line) })
	n := 0
	require.NoError(t, build(m, []string{"sh", "-c", "echo one; echo two"}, func() bool {
		n++
		return n <= 3
	}))
	require.EqualValues(t, 6, m.writes)
	require.Equal(t, []string{"workload ready"}, said)
	require.ErrorContains(t, build(m, []string{"sh", "-c", "exit 3"}, func() bool { return true }),
		"build number 1: exit status 3")
}
