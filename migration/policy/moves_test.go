package policy

import (
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// recorded are the migrations of testdata/moves/moves.csv, which a model of five guests on a link
// of 100 Mbit/s made. Each line of it is a round: the guest, the pages that the round began with,
// those that it left, its length in ms, the bytes that it sent, and the gate's state after it.
func recorded(t *testing.T) (guests []string, moves map[string][]Event) {
	t.Helper()
	b, err := os.ReadFile("testdata/moves/moves.csv")
	require.NoError(t, err)
	lines, err := csv.NewReader(strings.NewReader(string(b))).ReadAll()
	require.NoError(t, err)
	moves = make(map[string][]Event)
	for _, line := range lines[1:] {
		guest := line[0]
		var n [4]int64
		for i := range n {
			n[i], err = strconv.ParseInt(line[1+i], 10, 64)
			require.NoError(t, err)
		}
		var before Event
		if all := moves[guest]; len(all) > 0 {
			before = all[len(all)-1]
		} else {
			guests = append(guests, guest)
		}
		rounds := append(before.Rounds[:len(before.Rounds):len(before.Rounds)], Round{
			N: before.Completed + 1, Phase: PhasePreCopy, DirtyPages: n[0], SentPages: n[0],
			MS: float64(n[2]), BytesWire: n[3], BytesPerS: float64(n[3]) / float64(n[2]) * 1000,
			GateOpen: before.Gate == GateOpen,
		})
		moves[guest] = append(moves[guest], Event{
			Kind: KindRound, Rounds: rounds, Completed: len(rounds), Dirty: int(n[0]),
			Remaining: int(n[1]), Sent: before.Sent + n[0], RAM: 16384, Gate: Gate(line[5]),
			BytesPerS: 12.5e6, WirePerS: 12.5e6, Phase: PhasePreCopy,
		})
	}
	return guests, moves
}

// TestRecordedDecisions: on recorded migrations the policies decide what they have always decided.
// testdata/moves/decisions.txt has their decisions; -rewrite writes it anew.
func TestRecordedDecisions(t *testing.T) {
	const file = "testdata/moves/decisions.txt"
	guests, moves := recorded(t)
	var out strings.Builder
	for _, name := range []string{
		"xen", "xen:max-rounds=3", "downtime", "downtime:limit=30ms", "downtime:limit=0s",
		"downtime:limit=1s,max-rounds=5",
	} {
		for _, guest := range guests {
			fmt.Fprintf(&out, "%s, %s\n", name, guest)
			decide(&out, chosen(t, name), moves[guest])
		}
	}
	if *rewrite {
		require.NoError(t, os.WriteFile(file, []byte(out.String()), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String())
}

// decide asks a policy after every round, after a wait behind it, and at an EXIT in the next one:
// each time with what is left, with fewer pages and with more.
func decide(out *strings.Builder, p Policy, move []Event) {
	var now time.Duration
	last := ""
	for _, e := range move {
		now += time.Duration(e.Rounds[len(e.Rounds)-1].MS) * time.Millisecond
		var said []string
		for _, kind := range []Kind{KindRound, KindTick, KindGate} {
			e.Kind = kind
			if kind == KindGate {
				e.Gate = GateClosing
			}
			var answers []string
			for _, remaining := range []int{e.Remaining, e.Remaining / 7, 3 * e.Remaining} {
				e := e
				e.Remaining = remaining
				answers = append(answers, inWords(p.Step(now, e)))
			}
			said = append(said, strings.Join(slices.Compact(answers), " / "))
		}
		if answers := strings.Join(slices.Compact(said), " // "); answers != last {
			last = answers
			fmt.Fprintf(out, "  round %d, %d left: %s\n", e.Completed, e.Remaining, answers)
		}
	}
}

func inWords(a Action) string {
	words := a.Verb.String()
	if a.Reason != "" {
		words += ": " + a.Reason
	}
	if a.GaveUp {
		words += ", gave up"
	}
	return words
}
