package integration

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
)

// record is a line of a log, parsed from JSON.
type record struct {
	Time      time.Time
	Level     string
	Msg       string
	VM        string
	Migration string
	Error     string
	Peer      string
}

// readLog returns what a VM has logged to a file.
func (b *box) readLog(file, vm string) []record {
	b.t.Helper()
	text, err := os.ReadFile(b.path(file))
	require.NoError(b.t, err)
	var all []record
	for line := range strings.Lines(string(text)) {
		var r record
		require.NoError(b.t, json.Unmarshal([]byte(line), &r), line)
		require.False(b.t, r.Time.IsZero())
		require.NotEmpty(b.t, r.Level)
		require.Equal(b.t, vm, r.VM)
		all = append(all, r)
	}
	return all
}

// attempts returns the records of each migration by its id, and the ids in order.
func attempts(records []record) (ids []string, of map[string][]record) {
	of = map[string][]record{}
	for _, r := range records {
		if r.Migration == "" {
			continue
		}
		if of[r.Migration] == nil {
			ids = append(ids, r.Migration)
		}
		of[r.Migration] = append(of[r.Migration], r)
	}
	return ids, of
}

// TestLogsOfAttempts: at both ends, each attempt begins with a line and ends with one that says
// why, and both ends use the same id.
func TestLogsOfAttempts(t *testing.T) {
	b := newBox(t)
	into := func(file string) []string {
		return []string{"--log-format", "json", "--log-file", b.path(file)}
	}
	g := &guest{}
	source := b.run(g, "source", append(into("source.log"), busy...)...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0", into("destination.log")...)
	_, wait := b.background("migrate", "source", to, "--bandwidth", slow)
	source.migrating()
	require.Contains(t, b.refused(1, "migrate", "source", to), "under way")
	b.ok("cancel", "source")
	require.Equal(t, 1, wait().status)
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	destination.awaitState(control.StateRunning)
	b.ok("stop", "destination")
	require.Equal(t, 0, destination.wait())
	require.Empty(t, source.stderr.String()+destination.stderr.String(), "it is in the files")

	here, there := b.readLog("source.log", "source"), b.readLog("destination.log", "destination")
	sent, ofSource := attempts(here)
	came, ofDestination := attempts(there)
	require.Equal(t, sent, came)
	require.Len(t, sent, 2)
	for i, end := range []string{
		"migration cancelled: the guest stays here", "migration completed",
	} {
		lines := ofSource[sent[i]]
		require.Equal(t, "migration begins", lines[0].Msg)
		require.Equal(t, end, lines[1].Msg)
	}
	require.Equal(t, "cancelled", ofSource[sent[0]][1].Error)
	for i, end := range []string{
		"incoming migration failed, still waiting for one",
		"incoming migration completed: the guest has arrived",
	} {
		lines := ofDestination[came[i]]
		require.Equal(t, "incoming migration begins", lines[0].Msg)
		last := lines[len(lines)-1]
		require.Equal(t, end, last.Msg)
		require.Equal(t, i == 0, strings.Contains(last.Error, "cancelled"), last.Error)
		require.Regexp(t, `^127\.0\.0\.1:\d+$`, last.Peer)
	}
	require.Contains(t, here[len(here)-1].Msg, "moved to "+to)
	require.Equal(t, sent[1], here[len(here)-1].Migration)
	require.Equal(t, "stopped by vmm stop", there[len(there)-1].Msg)
	refused := 0
	for _, r := range here {
		if r.Msg == "migration refused" && strings.Contains(r.Error, "under way") {
			refused++
		}
	}
	require.Equal(t, 1, refused)
}

// TestLogOnTheGuestsTerminal: log lines and the guest's lines are all whole, in any timing. The
// guest prints all the time, and takes a while for a line.
func TestLogOnTheGuestsTerminal(t *testing.T) {
	b := newBox(t)
	tty := newTerminal(t)
	cmd := b.command("run", "--name", "vm", "--memory", "16M",
		"--cmdline", "workload=idle spin=1 dots=1ms")
	tty.start(t, cmd)
	client, err := control.NewClient(b.path("vm.sock"))
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, tty.screen.WaitText(b.ctx, "workload=idle"))
	refused := 0
	for beats := 0; beats < 3; beats = len(tty.screen.Beats()) {
		require.NoError(t, b.ctx.Err(), tty.screen.String())
		_, err := client.StartMigration(b.ctx, elsewhere)
		require.ErrorContains(t, err, "plain text at 192.0.2.1")
		refused++
		time.Sleep(20 * time.Millisecond) // the guest may stop within a line for seconds
	}
	tty.press(t, "\x01x")
	require.NoError(t, cmd.Wait())
	require.NoError(t, tty.screen.WaitText(b.ctx, "stopped by Ctrl-A X"))

	logged := regexp.MustCompile(`^time=\S+ level=WARN msg="migration refused" vm=vm .*insecure"$`)
	whole := regexp.MustCompile(`^(\.|hb task=0 .* kvmclock_ms=\d+|time=.*|)$`)
	seen, open := 0, ""
	_, text, _ := strings.Cut(tty.screen.String(), "\n.\r\n") // the guest's output has begun
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case logged.MatchString(line):
			seen++
			continue
		case open != "":
			require.True(t, strings.HasPrefix(line, open), "%q, then %q", open, line)
			open = ""
		}
		if !whole.MatchString(line) {
			open = line
		}
	}
	require.Greater(t, seen, refused/2, "lines that are the log's alone")
}
