package process

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// shown lets a guest and a log write to a screen, in virtual time, and returns what it shows.
func shown(t *testing.T, play func(guest func(string), log func(string))) (out string) {
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		s := newScreen(&got)
		l := newLogWriter(s, nil)
		guest := func(text string) {
			n, err := s.guestWrite([]byte(text))
			require.NoError(t, err)
			require.Equal(t, len(text), n)
		}
		play(guest, func(line string) {
			_, err := l.Write([]byte(line + "\n"))
			require.NoError(t, err)
			synctest.Wait()
		})
		s.end()
		l.close()
		s.endLine()
		out = got.String()
	})
	return out
}

// TestScreen: log lines and the guest's lines never mix.
func TestScreen(t *testing.T) {
	for want, play := range map[string]func(guest, log func(string)){
		"a\nLOG\nb\n": func(guest, log func(string)) {
			guest("a\n")
			log("LOG")
			guest("b\n")
		},
		// It waits for the end of the guest's line, and its line end has two bytes.
		"begin end\r\nLOG\nb\r\n": func(guest, log func(string)) {
			guest("begin ")
			log("LOG")
			time.Sleep(guestQuiet / 2)
			guest("end\r")
			guest("\n")
			time.Sleep(time.Second)
			guest("b\r\n")
		},
		// A prompt stays open, so it is there again below the log line.
		"login: \nLOG\nlogin: root\n": func(guest, log func(string)) {
			guest("login: ")
			log("LOG")
			time.Sleep(time.Second)
			guest("root\n")
		},
		"login: \nONE\nlogin: \nTWO\nlogin: root\n": func(guest, log func(string)) {
			guest("login: ")
			log("ONE")
			log("TWO")
			time.Sleep(time.Second)
			guest("root\n")
		},
		// A guest that never ends its line holds no log up.
		strings.Repeat(".", 6) + "\nLOG\n" + strings.Repeat(".", 20) +
			"\n": func(guest, log func(string)) {
			guest(".")
			log("LOG")
			for range 19 {
				time.Sleep(guestQuiet - time.Millisecond)
				guest(".")
			}
			guest("\n")
		},
		// A line that is too long to be shown again goes on below.
		strings.Repeat("x", repeatable+1) + "\nLOG\nyz\n": func(guest, log func(string)) {
			guest(strings.Repeat("x", repeatable+1))
			log("LOG")
			time.Sleep(time.Second)
			guest("y")
			guest("z\n")
		},
		// Nothing waits for a guest that has ended, and its unfinished line is ended.
		"half\nLOG\n": func(guest, log func(string)) {
			guest("half")
			log("LOG")
		},
		"half\n":     func(guest, _ func(string)) { guest("half") },
		"\rLOG\na\n": func(guest, log func(string)) { guest("\r"); log("LOG"); guest("a\n") },
		"a\nLOG\n":   func(guest, log func(string)) { guest("a\n"); log("LOG") },
	} {
		require.Equal(t, want, shown(t, play))
	}
}

// TestScreenAtRandom: with any timing, each line of the guest appears whole, in order, and each log
// line has its own line.
func TestScreenAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		var lines, logs []string
		out := shown(t, func(guest, log func(string)) {
			text := ""
			for i := range 30 {
				lines = append(lines, fmt.Sprintf("line %d of the guest", i))
				text += lines[i] + "\n"
			}
			for text != "" {
				n := 1 + rnd.IntN(min(len(text), 25))
				guest(text[:n])
				text = text[n:]
				time.Sleep(time.Duration(rnd.IntN(3)) * guestQuiet)
				if rnd.IntN(3) == 0 {
					logs = append(logs, fmt.Sprintf("LOG %d", len(logs)))
					log(logs[len(logs)-1])
				}
			}
		})
		got := strings.Split(out, "\n")
		require.Subset(t, got, lines, "seed %d: %s", seed, out)
		require.Subset(t, got, logs, "seed %d: %s", seed, out)
		for at, want := 0, append([]string{}, lines...); len(want) > 0; at++ {
			require.Less(t, at, len(got), "seed %d: out of order: %s", seed, out)
			if got[at] == want[0] {
				want = want[1:]
			}
		}
	}
}
