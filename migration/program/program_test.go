package program

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
)

// long is a deadline that no machine misses.
const long = time.Minute

// behaviour is the environment variable by which this test binary becomes a program.
const behaviour = "TASKGUIDE_TEST_POLICY"

func TestMain(m *testing.M) {
	how, is := os.LookupEnv(behaviour)
	if !is {
		os.Exit(m.Run())
	}
	behave(how)
	os.Exit(0)
}

// behave is a program. Its behaviour is a word, and what belongs to it behind a colon.
func behave(how string) {
	word, rest, _ := strings.Cut(how, ":")
	say := func(reason string) {
		b, _ := json.Marshal(map[string]any{"action": "switchover", "reason": reason})
		fmt.Println(string(b))
	}
	switch word {
	case "deaf":
		time.Sleep(time.Hour)
	case "parent":
		os.Setenv(behaviour, "pid")
		p, err := Launch(os.Args[0], slog.New(slog.DiscardHandler), func(error) {})
		if err != nil {
			panic(err)
		}
		a, err := p.Ask(Message{}, long)
		fmt.Println(a.Reason, err)
		time.Sleep(time.Hour)
	}
	var held []string
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var m map[string]any
		if err := json.Unmarshal(in.Bytes(), &m); err != nil {
			panic(err)
		}
		question, asks := m["question"]
		switch {
		case word == "told":
			if held = append(held, fmt.Sprint(m["event"])); asks {
				say(strings.Join(held, " "))
			}
		case !asks, word == "hang":
		case word == "says":
			fmt.Println(rest)
		case word == "once":
			if held = append(held, fmt.Sprint(m["event"])); len(held) == 1 {
				say(held[0])
			}
		case word == "twice":
			say("one")
			say("two")
		case word == "slow": // holds the first answer back until the second question
			if held = append(held, fmt.Sprint(question)); len(held) > 1 {
				say(held[len(held)-1])
			}
			if len(held) == 2 {
				say("2, late no more")
			}
		case word == "dies":
			os.Exit(3)
		case word == "chatty":
			for i := range 100 * loggedLines {
				fmt.Fprintf(os.Stderr, "line %d\x1b[31m %s\n", i, strings.Repeat("x", 2000))
			}
			say("said")
		case word == "pid":
			say(strconv.Itoa(os.Getpid()))
		case word == "parent of one":
			child := exec.Command("sleep", "1000")
			if err := child.Start(); err != nil {
				panic(err)
			}
			say(strconv.Itoa(child.Process.Pid))
		case word == "parent of one that leaves": // the group, with the input, which nobody reads
			child := exec.Command("sleep", "1000")
			child.Stdin = os.Stdin
			child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := child.Start(); err != nil {
				panic(err)
			}
			say(strconv.Itoa(child.Process.Pid))
			time.Sleep(time.Hour)
		default:
			say(fmt.Sprint(m[word]))
		}
	}
}

// running is a program under test, and what became of it.
type running struct {
	*Program
	t      *testing.T
	said   bytes.Buffer // guarded by saidMu
	saidMu sync.Mutex
	lost   chan error
}

func (r *running) Write(p []byte) (int, error) {
	r.saidMu.Lock()
	defer r.saidMu.Unlock()
	return r.said.Write(p)
}

func (r *running) logged() string {
	r.saidMu.Lock()
	defer r.saidMu.Unlock()
	return r.said.String()
}

// launch starts this binary as a program that behaves in some way. Its time to warm up is over.
func launch(t *testing.T, how string) *running {
	t.Helper()
	t.Setenv(behaviour, how)
	r := &running{t: t, lost: make(chan error, 1)}
	self, err := os.Executable()
	require.NoError(t, err)
	r.Program, err = Launch(self, slog.New(slog.NewTextHandler(r, nil)), func(why error) {
		r.lost <- why
	})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	r.begun = time.Time{}
	return r
}

func (r *running) asks(within time.Duration) *policy.Action {
	r.t.Helper()
	a, err := r.Ask(Message{Event: policy.KindRound}, within)
	require.NoError(r.t, err)
	return a
}

// isLost waits until the program is over because of what it did, and its process has ended.
func (r *running) isLost(why string) {
	r.t.Helper()
	select {
	case err := <-r.lost:
		require.ErrorContains(r.t, err, why)
	case <-time.After(long):
		require.Fail(r.t, "it goes on")
	}
	r.isGone()
	_, err := r.Ask(Message{}, long)
	require.ErrorContains(r.t, err, why)
}

func (r *running) isGone() {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(long):
		require.Fail(r.t, "its process lives on")
	}
}

// TestAnswers: the k-th line answers the k-th question, whatever was told in between.
func TestAnswers(t *testing.T) {
	p := launch(t, "told")
	p.Tell(Message{Event: policy.KindStanding})
	require.Equal(t, policy.Action{Verb: policy.Switchover, Reason: "standing round"},
		*p.asks(long))
	p.Tell(Message{Event: policy.KindGate})
	p.Tell(Message{Event: policy.KindGate})
	require.Equal(t, "standing round gate gate round", p.asks(long).Reason)
	p.Close()
	p.isGone()
	_, err := p.Ask(Message{}, long)
	require.ErrorIs(t, err, errClosed)
	require.Empty(t, p.lost, "an end that was ordered is no failure")
}

// TestLateLinesAreDropped: an answer to an earlier question does not answer a later one.
func TestLateLinesAreDropped(t *testing.T) {
	p := launch(t, "slow")
	require.Nil(t, p.asks(time.Millisecond))
	require.Equal(t, "2, late no more", p.asks(long).Reason)
	require.Equal(t, "3", p.asks(long).Reason)
	require.Zero(t, p.late)
	require.Empty(t, p.lost)
}

// TestLateThreeTimes: a program that hangs is ended.
func TestLateThreeTimes(t *testing.T) {
	for _, how := range []string{"hang", "deaf"} {
		p := launch(t, how)
		require.Nil(t, p.asks(time.Millisecond))
		require.Nil(t, p.asks(time.Millisecond))
		_, err := p.Ask(Message{}, time.Millisecond)
		require.ErrorIs(t, err, errLate)
		p.isLost("late 3 times in a row")
	}
}

// TestWarmUp: the first answer has the time that an interpreter needs to load, and no later one.
func TestWarmUp(t *testing.T) {
	p := launch(t, "once")
	p.begun = time.Now().Add(long)
	require.Equal(t, "round", p.asks(0).Reason)
	begun := time.Now()
	require.Nil(t, p.asks(-1), "no answer is as fast")
	require.Less(t, time.Since(begun), long)
}

// TestDeafProgram: a program that does not read holds nobody up, and is told how much it missed.
func TestDeafProgram(t *testing.T) {
	p := launch(t, "deaf")
	missed := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.missed
	}
	for missed() < 1000 { // the pipe and the queue are full at last
		p.Tell(Message{Event: policy.KindGate})
	}
	require.Nil(t, p.asks(time.Millisecond), "it is late")
	a, err := p.TryAsk(Message{}, time.Millisecond)
	require.NoError(t, err)
	require.Nil(t, a)
}

func TestWrongAnswers(t *testing.T) {
	for says, want := range map[string]string{
		`nonsense`:                               `"nonsense" is no answer`,
		``:                                       `"" is no answer`,
		`null`:                                   `has no "action"`,
		`{}`:                                     `has no "action"`,
		`[]`:                                     `is no answer`,
		`{"action":"postcopy"}`:                  `"postcopy" does not exist yet`,
		`{"action":"throttle"}`:                  `"throttle" does not exist yet`,
		`{"action":"end round"}`:                 `"end round" is unknown`,
		`{"action":"look"}`:                      `"look" is unknown`,
		`{"action":7}`:                           `is no answer`,
		`{"action":"continue"} {}`:               `is no answer`,
		`{"action":"wait","until_ms":-1}`:        `until_ms is negative`,
		`{"action":"wait","until_ms":"1"}`:       `is no answer`,
		strings.Repeat("x", 3*maxLine):           `longer than 4096 bytes`,
		`{"action":"` + strings.Repeat("y", 500): `"{\"action\":\"yyy`,
	} {
		p := launch(t, "says:"+says)
		_, err := p.Ask(Message{}, long)
		require.ErrorContains(t, err, want)
		require.Less(t, len(err.Error()), 400)
		p.isLost(want)
	}
}

func TestAnswersWithoutAQuestion(t *testing.T) {
	p := launch(t, "twice")
	_, _ = p.Ask(Message{}, long) // its own answer may be there before the one too many
	p.isLost("without a question")
}

func TestDeath(t *testing.T) {
	p := launch(t, "dies")
	_, err := p.Ask(Message{}, long)
	require.ErrorContains(t, err, "it has ended: exit status 3")
	p.isLost("exit status 3")
	_, err = Launch(filepath.Join(t.TempDir(), "none"), p.log, func(error) {})
	require.ErrorContains(t, err, "no such file")
}

// TestTryAskDoesNotWait: neither for another question, nor for a program that is late.
func TestTryAskDoesNotWait(t *testing.T) {
	p := launch(t, "question")
	p.asking.Lock()
	a, err := p.TryAsk(Message{}, long)
	p.asking.Unlock()
	require.NoError(t, err)
	require.Nil(t, a)
	a, err = p.TryAsk(Message{}, long)
	require.NoError(t, err)
	require.Equal(t, "1", a.Reason, "what was not asked does not count")

	p = launch(t, "slow")
	require.Nil(t, p.asks(time.Millisecond))
	a, err = p.TryAsk(Message{}, long)
	require.NoError(t, err)
	require.Nil(t, a)
	require.Equal(t, 1, p.asked, "it owes an answer, so it is not asked")
}

// TestChildrenEnd with their program.
func TestChildrenEnd(t *testing.T) {
	p := launch(t, "parent of one")
	child := p.asks(long).Reason
	require.True(t, lives(child))
	p.Close()
	p.isGone()
	dies(t, child)
}

// TestChildThatLeaves: it lives on when its program ends, and holds the input without reading it.
// Nobody here waits until that is written.
func TestChildThatLeaves(t *testing.T) {
	p := launch(t, "parent of one that leaves")
	child := p.asks(long).Reason
	pid, err := strconv.Atoi(child)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	const more = 1 << 20 // than a pipe holds
	p.Tell(Message{Event: policy.Kind(strings.Repeat("x", more))})
	require.Eventually(t, func() bool { return len(p.lines) == 0 }, long, time.Millisecond)
	p.Close()
	p.isGone()
	require.True(t, lives(child))
	select {
	case <-p.written:
	case <-time.After(long):
		require.Fail(t, "it is still being written")
	}
}

// TestNoProgramOutlivesThisProcess, however it ends.
func TestNoProgramOutlivesThisProcess(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), behaviour+"=parent")
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid := strings.Fields(line)[0]
	require.True(t, lives(pid), "%q", line)
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	dies(t, pid)
}

func dies(t *testing.T, pid string) {
	t.Helper()
	require.Eventually(t, func() bool { return !lives(pid) }, long, 10*time.Millisecond)
}

// lives tells whether a process is there and no zombie.
func lives(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// TestStderrIsBounded: a program that says a lot is not blocked by it, and does not fill the log.
func TestStderrIsBounded(t *testing.T) {
	p := launch(t, "chatty")
	require.Equal(t, "said", p.asks(long).Reason)
	p.Close()
	log := p.logged()
	require.Contains(t, log, `says="line 0 [31m xxx`)
	require.Contains(t, log, "too much")
	require.Equal(t, loggedLines+1, strings.Count(log, "\n"))
	require.Less(t, len(log), (loggedLines+1)*(maxReason+200))
	require.NotContains(t, log, "\x1b")
}

// FuzzParse: no line of a program does harm.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"action":"continue"}`, `{"action":"wait","until_ms":1e300}`, `null`, `{"action":null}`,
		`{"action":"switchover","gave_up":true,"reason":"a\nb\u0000é"}`, `{"action":"abort"}`, ``,
		`{"ACTION":"suspend","until_ms":-0.0}`, "{\"action\":\"abort\",\"reason\":\"\xff\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		a, err := parse(line)
		if err != nil {
			require.Less(t, len(err.Error()), 1000)
			return
		}
		require.Contains(t, []policy.Verb{
			policy.Continue, policy.Wait, policy.Suspend, policy.Switchover, policy.Abort,
		}, a.Verb)
		require.GreaterOrEqual(t, a.Until, time.Duration(0))
		require.LessOrEqual(t, a.Until, 2400*time.Hour)
		require.LessOrEqual(t, len([]rune(a.Reason)), maxReason+1)
		require.NotContains(t, a.Reason, "\n")
		require.True(t, !a.GaveUp || a.Verb == policy.Switchover)
		if a.Verb == policy.Switchover || a.Verb == policy.Abort {
			require.NotEmpty(t, a.Reason)
		}
	})
}

// TestMessage: what a program finds in its lines.
func TestMessage(t *testing.T) {
	object := func(m Message) map[string]any {
		line, err := m.encode()
		require.NoError(t, err)
		require.Equal(t, 1, bytes.Count(line, []byte("\n")))
		var o map[string]any
		require.NoError(t, json.Unmarshal(line, &o))
		return o
	}
	round := policy.Round{
		N: 3, Phase: policy.PhasePreCopy, DirtyPages: 900, SentPages: 850, MS: 12.5,
		DirtyPagesPerS: 4000, BytesPerS: 1e6, GateOpen: true,
	}
	e := policy.Event{
		Kind: policy.KindRound, Rounds: []policy.Round{{N: 2}, round}, Completed: 3, RAM: 4096,
		Remaining: 640, Sent: 5000, BytesPerS: 12.5e6, Gate: policy.GateOpen, Dirty: 900,
		Fixed: 1500 * time.Microsecond,
	}
	o := object(Asking(812*time.Millisecond, e))
	b, err := json.Marshal(round)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(b, &fields))
	for name, value := range fields {
		require.Equal(t, value, o[name], "%s: all fields of the report's round", name)
	}
	require.Equal(t, "round", o["event"])
	require.EqualValues(t, 812, o["now_ms"])
	require.EqualValues(t, 640, o["remaining_pages"])
	require.InDelta(t, 209.7, o["expected_downtime_ms"], 0.1, "without what is fixed")
	require.EqualValues(t, 1.5, o["fixed_downtime_ms"])

	e.Idle, e.Dirty, e.Remaining, e.BytesPerS = true, 0, 0, 0
	o = object(Asking(0, e))
	require.Equal(t, true, o["idle"])
	require.EqualValues(t, 0, o["dirty_pages"])
	require.NotContains(t, o, "expected_downtime_ms")

	o = object(Asking(0, policy.Event{Kind: policy.KindSample, DirtyPerS: 5}))
	require.EqualValues(t, 5, o["dirty_pages_per_s"])
	require.NotContains(t, o, "n")
	o = object(Telling(0, policy.Event{Kind: policy.KindGate, Gate: policy.GateOpen}))
	require.Equal(t, map[string]any{"event": "gate", "gate": "open", "now_ms": 0.0}, o)
}

// stubbed is a leader that always says the same.
type stubbed struct{ Asked }

func (stubbed) TryAsk(Message, time.Duration) (*policy.Action, error) {
	return &policy.Action{Verb: policy.Switchover}, nil
}

// TestAnswersAtAnExitAge: an answer counts at the EXIT that it was asked for, once and soon.
func TestAnswersAtAnExitAge(t *testing.T) {
	c := &Counsel{leader: stubbed{}}
	_, kept := c.AtExit(0)
	require.False(t, kept, "nobody was asked")
	c.AskAtExit(0, Message{}, policy.Event{Kind: policy.KindGate})
	e, kept := c.AtExit(exitAnswerLife)
	require.True(t, kept)
	require.Equal(t, policy.Switchover, e.Answer.Verb)
	_, kept = c.AtExit(exitAnswerLife)
	require.False(t, kept, "once")
	c.AskAtExit(0, Message{}, policy.Event{Kind: policy.KindGate})
	_, kept = c.AtExit(exitAnswerLife + 1)
	require.False(t, kept, "late")
}
