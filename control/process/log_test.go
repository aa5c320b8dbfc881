package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// logged returns the lines in a VM's log file after use.
func logged(t *testing.T, cfg LogConfig, use func(*logbook)) string {
	t.Helper()
	cfg.File = filepath.Join(t.TempDir(), "log")
	l, err := openLog(cfg, "web1", os.Stderr)
	require.NoError(t, err)
	use(l)
	l.close(nil)
	b, err := os.ReadFile(cfg.File)
	require.NoError(t, err)
	return string(b)
}

// TestLogFormats: each record is one line that says when, how bad, which VM and which migration.
func TestLogFormats(t *testing.T) {
	use := func(l *logbook) {
		l.Debug("not of interest")
		l.With("migration", "ab12").Warn("it failed", "error", errors.New("two\nlines"), "try", 3)
	}
	text := logged(t, LogConfig{}, use)
	require.Regexp(t, `^time=\S+Z? level=WARN msg="it failed" vm=web1 migration=ab12 `+
		`error="two; lines" try=3\n$`, text)

	var record struct {
		Time                             time.Time
		Level, Msg, VM, Migration, Error string
		Try                              int
	}
	text = logged(t, LogConfig{Format: LogJSON}, use)
	require.Equal(t, 1, strings.Count(text, "\n"))
	require.NoError(t, json.Unmarshal([]byte(text), &record))
	require.WithinDuration(t, time.Now(), record.Time, deadline)
	require.Equal(t, []string{"WARN", "it failed", "web1", "ab12", "two; lines"},
		[]string{record.Level, record.Msg, record.VM, record.Migration, record.Error})
	require.Equal(t, 3, record.Try)

	require.Contains(t, logged(t, LogConfig{Level: slog.LevelDebug}, use), "not of interest")
	require.Empty(t, logged(t, LogConfig{Level: slog.LevelError}, use))
}

// TestLogFile: the file is appended to, only its user may read it, and it has what ended the
// process.
func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for i := range 2 {
		l, err := openLog(LogConfig{File: path}, "web1", os.Stderr)
		require.NoError(t, err)
		l.Info("begun")
		l.close(fmt.Errorf("end %d", i))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `(?s)begun.*\n.*ended.*"end 0".*begun.*\n.*ended.*"end 1"\n$`, string(text))
	require.Equal(t, 4, strings.Count(string(text), "\n"))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	link := path + ".link"
	require.NoError(t, os.Symlink(path, link))
	for _, bad := range []string{link, path + "/x", filepath.Dir(path)} {
		_, err := openLog(LogConfig{File: bad}, "web1", os.Stderr)
		require.ErrorContains(t, err, "log: "+bad+": ", bad)
	}
}

// TestLogSharesATerminal or not: the files decide, whatever their names.
func TestLogSharesATerminal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "both")
	l, err := openLog(LogConfig{File: path}, "web1", os.Stderr)
	require.NoError(t, err)
	defer l.close(nil)
	same, err := open(t, path)
	require.NoError(t, err)
	defer same.Close()
	l.shares(same)
	require.Same(t, l.screen, same.screen)
	other, err := open(t, path+".other")
	require.NoError(t, err)
	defer other.Close()
	l.shares(other)
	require.Nil(t, other.screen)
}

// stuckWriter takes nothing until it is opened.
type stuckWriter struct {
	open chan struct{}

	mu  sync.Mutex
	got bytes.Buffer
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	<-w.open
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.Write(p)
}

// TestLogNobodyReads: a log that takes nothing delays nobody, not even at the end, and says how
// many lines it lost.
func TestLogNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWriter{open: make(chan struct{})}
		l := newLogWriter(w, func(n int) []byte { return fmt.Appendf(nil, "lost %d\n", n) })
		log := slog.New(LogConfig{}.handler(l))
		begin := time.Now()
		log.Info("first")
		synctest.Wait() // the writer has it
		for range logLines + 7 {
			log.Info("more")
		}
		require.Zero(t, time.Since(begin), "in virtual time")
		l.close()
		require.Equal(t, logFlush, time.Since(begin))
		log.Info("after the end")
		close(w.open)
		<-l.done
		require.Equal(t, logLines+2, strings.Count(w.got.String(), "\n"))
		require.Contains(t, w.got.String(), "lost 7\n")
	})
}
