package device

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipe is a writer that takes nothing until it is opened.
type pipe struct {
	open chan struct{}
	got  []byte
}

func (p *pipe) Write(b []byte) (int, error) {
	<-p.open
	p.got = append(p.got, b...)
	return len(b), nil
}

// TestConsoleNobodyReads: a console that takes nothing holds its guest up once, for a bounded time.
// The loss is reported, and output arrives again once the console is read.
func TestConsoleNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &pipe{open: make(chan struct{})}
		var told []int64
		tell := func(lost int64) { told = append(told, lost) }
		c := newConsole(Console{Writer: out, Lossy: tell, Queue: 100})
		c.start(&wires{})
		line := make([]byte, 100)
		begin := time.Now()
		c.write(line) // for the writer
		synctest.Wait()
		for range 50 {
			c.write(line) // the first for the queue
		}
		require.Equal(t, consolePatience, time.Since(begin), "in virtual time")
		require.Equal(t, []int64{0}, told)
		require.Equal(t, ConsoleInfo{Printed: 51 * 100, Lost: 49 * 100}, c.info())
		close(out.open)
		synctest.Wait()
		require.Equal(t, []int64{0, 49 * 100}, told)
		c.write([]byte("back"))
		c.close()
		require.Len(t, out.got, 2*100+len("back"))
		c.write([]byte("too late"))
		require.Equal(t, ConsoleInfo{
			Printed: 51*100 + int64(len("back")+len("too late")),
			Written: 2*100 + int64(len("back")), Lost: 49*100 + int64(len("too late")),
		}, c.info())
		require.Equal(t, []int64{0, 49 * 100}, told)
	})
}

// slow is a writer that takes its time.
type slow struct{ got []byte }

func (s *slow) Write(b []byte) (int, error) {
	time.Sleep(consolePatience * 9 / 10)
	s.got = append(s.got, b...)
	return len(b), nil
}

// TestConsoleSlowReader: a console that is read slowly but steadily loses nothing.
func TestConsoleSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slow{}
		c := newConsole(Console{Writer: out, Lossy: func(int64) { t.Error("lost") }, Queue: 100})
		c.start(&wires{})
		for range 50 {
			c.write(make([]byte, 100))
		}
		c.close()
		<-c.drained
		require.Len(t, out.got, 50*100)
	})
}
