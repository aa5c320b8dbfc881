//go:build stockkvm

package linux

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration"
	"taskguide/migration/policy"
)

// Of TestKillsAmongMoves: how many times guests move, and how many times one guest does. Each guest
// has a seed of its own.
const (
	killMoves = 200
	killLife  = 20
)

// killsOf is what TestKillsAmongMoves keeps of one guest, a line of JSON each.
type killsOf struct {
	Seed     int
	Moves    int
	Guided   int     // those of them that tasks had a say in
	WaitedMS float64 // longest time that a move was held back
	Kills    string  // what the guest counted
}

// TestKillsAmongMoves: while a guest moves 200 times, its programs and vmm-tag's daemon are killed
// at random moments. No dead program holds the gate, no move is forced, no page of a program that
// lives is written by others, and RAM is verified at each move. With TAGS_OUT, a folder, it keeps
// what it has done there, and goes on from that when it is run again.
func TestKillsAmongMoves(t *testing.T) {
	out := os.Getenv("TAGS_OUT")
	if out == "" {
		out = t.TempDir()
	}
	path := filepath.Join(out, "kills.jsonl")
	done := readKilled(t, path)
	moves := 0
	for _, k := range done {
		moves += k.Moves
	}
	for seed := len(done) + 1; moves < killMoves; seed++ {
		t.Run(fmt.Sprintf("guest-%d", seed), func(t *testing.T) {
			k := killsInOneGuest(t, seed)
			appendKilled(t, path, k)
			moves += k.Moves
		})
		require.False(t, t.Failed())
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	t.Logf("%d moves\n%s", moves, text)
}

// requireOutside requires that no program was moved outside of its segment by a guided move.
func requireOutside(t *testing.T, console string, heeded map[int]bool) {
	t.Helper()
	for _, m := range outside.FindAllStringSubmatch(console, -1) {
		from, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		to, err := strconv.Atoi(m[2])
		require.NoError(t, err)
		for epoch := from + 1; epoch <= to; epoch++ {
			require.False(t, heeded[epoch], "%s\n%s", m[0], console)
		}
	}
}

func readKilled(t *testing.T, path string) (all []killsOf) {
	t.Helper()
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(t, err)
	for line := range bytes.Lines(text) {
		var k killsOf
		require.NoError(t, json.Unmarshal(line, &k))
		all = append(all, k)
	}
	return all
}

func appendKilled(t *testing.T, path string, k killsOf) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, json.NewEncoder(f).Encode(k))
}

var (
	// counted is what tagged kills has counted, and intact what its patterns have.
	counted = regexp.MustCompile(`kills: (\{.*\})\.`)
	intact  = regexp.MustCompile(`pattern-[0-9]+: intact after rounds=`)
	// outside is a program that was moved outside of its segment.
	outside = regexp.MustCompile(`moved outside of its segment, from epoch (\d+) to (\d+),`)
)

func killsInOneGuest(t *testing.T, seed int) killsOf {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	defer cancel()
	tr := newTraveller(ctx, t)
	tr.at.typed(t, fmt.Sprintf("tagged kills %d &", seed))
	tr.awaitLine(ctx, t, counted)
	k := killsOf{Seed: seed}
	heeded := map[int]bool{} // by the epoch after it: the moves that tasks had a say in
	for range killLife {
		// While no daemon lives, there is no task and nothing to wait for. Programs that are tagged
		// after the migration has begun have no say in it.
		report := tr.moveGuided(ctx, t, migration.GuidanceSwitchover, policy.GuidanceNone)
		k.Moves++
		k.WaitedMS = max(k.WaitedMS, report.WaitedMS)
		if report.Guidance == migration.GuidanceSwitchover {
			k.Guided++
			heeded[k.Moves] = true
		}
		require.NotContains(t, tr.console(), "FAULT")
		requireOutside(t, tr.console(), heeded)
	}
	before := len(intact.FindAllString(tr.console(), -1))
	require.NotZero(t, before, "the patterns are looked at")
	tr.at.typed(t, "kill $(pidof tagged | tr ' ' '\\n' | sort -n | head -n 1)")
	tr.awaitLine(ctx, t, regexp.MustCompile(`kills: ended, error=<nil>\.`))
	said := tr.console()
	require.NotContains(t, said, "FAULT")
	requireOutside(t, said, heeded)
	require.NotZero(t, k.Guided)
	all := counted.FindAllStringSubmatch(said, -1)
	k.Kills = all[len(all)-1][1]
	require.Greater(t, strings.Count(said, "kills: {"), 1)
	requireRun(ctx, t, tr.host, "vmm stop --now "+tr.name())
	return k
}
