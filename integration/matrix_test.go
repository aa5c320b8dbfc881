package integration

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/migration"
	"taskguide/migration/policy"
)

// moveOptions is a move in a matrix of options.
type moveOptions struct {
	delta    bool
	compress migration.Compress
	channels int
	rule     migration.Rule
}

func (o moveOptions) flags() []string {
	flags := []string{
		"--verify",
		fmt.Sprintf("--delta=%v", o.delta),
		"--compress", string(o.compress),
		"--channels", fmt.Sprint(o.channels),
		"--rule", string(o.rule),
	}
	if c, err := policy.Parse(string(o.rule)); err == nil && c.Value("max-rounds", nil) != "" {
		flags = append(flags, "--max-rounds", "4")
	}
	return flags
}

// moveMatrix returns every combination of options. If few is set, it returns one, with the options
// that affect each other most.
func moveMatrix(few bool) []moveOptions {
	if few {
		return []moveOptions{{true, migration.CompressZstd, 2, migration.RuleXen}}
	}
	var all []moveOptions
	for _, delta := range []bool{false, true} {
		for _, compress := range []migration.Compress{
			migration.CompressNone, migration.CompressAuto, migration.CompressZstd,
		} {
			for _, channels := range []int{1, 2, 3} {
				for _, rule := range []migration.Rule{migration.RuleDowntime, migration.RuleXen} {
					all = append(all, moveOptions{delta, compress, channels, rule})
				}
			}
		}
	}
	return all
}

// TestMoveMatrix moves a busy guest with each of KVM's ways of tracking, with each combination of
// options (make test-matrix) or with one. Each move is verified, and the guest finds its memory
// unchanged.
func TestMoveMatrix(t *testing.T) {
	matrix := moveMatrix(os.Getenv("TASKGUIDE_LONG") == "")
	for _, tracker := range dirtylog.Kinds {
		t.Run(string(tracker), func(t *testing.T) {
			b := newBox(t)
			g := &guest{}
			here := b.run(g, "host-0", append([]string{"--dirty-log", string(tracker)}, busy...)...)
			g.alive(b, 1)
			for i, o := range matrix {
				name := fmt.Sprintf("host-%d", i+1)
				there, to := b.incoming(g, name, "tcp:127.0.0.1:0", "--dirty-log", string(tracker))
				r := b.migrate(here.name, to, o.flags()...)
				requireVerified(t, r)
				require.Equal(t, 0, here.wait(), "%+v: %s", o, here.stderr)
				require.Empty(t, g.Corrupt(), "%+v", o)
				var later, deltas int64
				for _, round := range r.Rounds[1:] {
					later, deltas = later+round.SentPages, deltas+round.DeltaPages
				}
				if !o.delta {
					require.Zero(t, deltas)
				} else if o.rule == migration.RuleDowntime && later > 0 {
					require.Positive(t, deltas, "%+v", o)
				}
				here = there
			}
			g.alive(b, 2)
		})
	}
}
