package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for given, want := range map[string]Traits{
		"xen":                       {Skip: true, Protect: ProtectRound},
		"xen:skip=off":              {Protect: ProtectRound},
		"xen:skip=off,protect=page": {Protect: ProtectPage},
		"xen:polish=on":             {Skip: true, Protect: ProtectRound, Polish: true},
		"downtime":                  {Protect: ProtectPage, Polish: true},
		"downtime:polish=off":       {Protect: ProtectPage},
		"downtime:protect=round":    {Protect: ProtectRound, Polish: true},
		"downtime:skip=on":          {Skip: true, Protect: ProtectRound, Polish: true},
	} {
		c, err := Parse(given)
		require.NoError(t, err, given)
		require.Equal(t, want, c.Traits(), given)
	}
	c, err := Parse("downtime:polish=off,limit=5ms")
	require.NoError(t, err)
	require.Equal(t, "downtime", c.Name())
	require.Equal(t, "downtime:limit=5ms,polish=off", c.String())
	again, err := Parse(c.String())
	require.NoError(t, err)
	require.Equal(t, c.String(), again.String())
}

func TestParseRefuses(t *testing.T) {
	for given, want := range map[string]string{
		"":                              `"" is unknown: use one of downtime, `,
		"best":                          `"best" is unknown: use one of downtime, `,
		"Xen":                           `"Xen" is unknown`,
		"xen:":                          "want NAME=VALUE",
		"xen:skip":                      "want NAME=VALUE",
		"xen:skip=":                     "want NAME=VALUE",
		"xen:skip=maybe":                "use on or off",
		"xen:polish=on,polish=off":      "twice",
		"xen:limit=300ms":               `no parameter "limit": use max-rounds, skip,`,
		"xen:max-rounds=-1":             "want a whole number",
		"xen:max-rounds=many":           "want a whole number",
		"xen:protect=page":              "skip=off",
		"downtime:limit=300":            "want a duration",
		"downtime:limit=-1s":            "want a duration",
		"downtime:protect=all":          "use page or round",
		"downtime:skip=on,protect=page": "skip=off",
	} {
		_, err := Parse(given)
		require.ErrorContains(t, err, want, given)
		require.True(t, strings.HasPrefix(err.Error(), `"`+given+`"`), "%v", err)
		require.NotContains(t, err.Error(), "\n")
	}
}

// TestValues: a policy's own parameter comes before those of the command line's flags, and these
// before its defaults.
func TestValues(t *testing.T) {
	flags := Values{"max-rounds": "7", "limit": "1s", "of-another-policy": "x"}
	for given, want := range map[string]string{
		"xen": "7", "xen:max-rounds=9": "9", "downtime": "7", "downtime:max-rounds=9": "9",
	} {
		c, err := Parse(given)
		require.NoError(t, err)
		require.Equal(t, want, c.Value("max-rounds", flags))
		p, err := c.New(flags)
		require.NoError(t, err)
		e := after(int(want[0]-'0')-1, 1000)
		require.Equal(t, Continue, p.Step(0, e).Verb)
		e.Completed++
		require.Equal(t, want+" rounds", p.Step(0, e).Reason)
	}
	c, err := Parse("xen")
	require.NoError(t, err)
	require.Equal(t, "29", c.Value("max-rounds", nil))
	require.Empty(t, c.Value("limit", flags), "xen has none")
	_, err = c.New(Values{"max-rounds": "x"})
	require.ErrorContains(t, err, "max-rounds")
}

// TestRegistry: what the command line shows of each policy, and that its parameters are good.
func TestRegistry(t *testing.T) {
	require.Equal(t, Default, All()[0].Name)
	for _, s := range All() {
		require.NotEmpty(t, s.Help, s.Name)
		require.NotContains(t, s.Name, ":")
		own := []string{s.Name + ":"}
		for i, p := range s.Parameters() {
			require.NotEmpty(t, p.Help, "%s: %s", s.Name, p.Name)
			require.NotEmpty(t, p.Default, "%s: %s", s.Name, p.Name)
			if i > 0 {
				own = append(own, ",")
			}
			own = append(own, p.Name+"="+p.Default)
		}
		c, err := Parse(strings.Join(own, ""))
		require.NoError(t, err)
		require.Equal(t, s.Traits, c.Traits(), "its own traits are consistent")
	}
}

// TestProtectByDefault: without protect= the value that goes with skip applies.
func TestProtectByDefault(t *testing.T) {
	for skip, want := range map[bool]Protect{false: ProtectPage, true: ProtectRound} {
		const name = "of-a-test"
		register(Spec{
			Name: name, Traits: Traits{Skip: skip}, New: func(*Args) Policy { return xen(1) },
		})
		c, err := Parse(name)
		delete(registry, name)
		require.NoError(t, err)
		require.Equal(t, Traits{Skip: skip, Protect: want}, c.Traits())
	}
}

// TestContract checks, for each policy, what the engine relies on.
func TestContract(t *testing.T) {
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			p := chosen(t, s.Name)
			for _, kind := range []Kind{KindStart, KindSample} {
				a := p.Step(0, Event{Kind: kind, RAM: 4096})
				require.Contains(t, []Verb{Continue, Wait, Abort}, a.Verb, "at a %s", kind)
			}
			gaveUp := false
			var rounds []Round
			for completed := range 60 {
				if completed > 0 {
					rounds = append(rounds, Round{N: completed, DirtyPages: 400, SentPages: 400})
				}
				// From many pages to few: with fewer it never says no where it said yes with more.
				ended := false
				for remaining := 4000; remaining >= 0; remaining -= 20 {
					e := Event{
						Kind: KindRound, Completed: completed, Remaining: remaining, RAM: 4096,
						Rounds: rounds, Sent: int64(400 * completed),
						BytesPerS: 12.5e6, WirePerS: 12.5e6,
					}
					a := p.Step(0, e)
					require.Equal(t, a, p.Step(0, e), "asked twice it says the same")
					if a.Verb == Switchover {
						require.NotEmpty(t, a.Reason)
						ended = true
						gaveUp = gaveUp || a.GaveUp
					} else {
						require.False(t, ended, "%d pages after round %d", remaining, completed)
						require.False(t, gaveUp, "who gave up has given up: round %d", completed)
						require.Contains(t, []Verb{Continue, Wait, Suspend, Abort}, a.Verb)
					}
					for _, told := range []Event{
						{Kind: KindStanding},
						{Kind: KindGate, Gate: GateOpen}, {Kind: KindGate, Gate: GateClosed},
					} {
						require.Equal(t, Action{}, p.Step(0, told), "told, not asked: %+v", told)
					}
				}
			}
		})
	}
}
