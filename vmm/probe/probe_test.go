package probe

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKind(t *testing.T) {
	cpuinfo := func(flags string) string {
		return "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu " + flags + " sse\n\n" +
			"processor\t: 1\nflags\t\t: fpu\n"
	}
	require.Equal(t, Intel, kindOf(cpuinfo("vmx"), false))
	require.Equal(t, AMD, kindOf(cpuinfo("svm"), false))
	require.Equal(t, PVM, kindOf(cpuinfo("avx"), false))
	require.Equal(t, PVM, kindOf(cpuinfo("vmx"), true))
	require.Equal(t, PVM, kindOf("", false))
	require.Equal(t, "A CPU: fast", cpuinfoField(cpuinfo(""), "model name"))
	require.Empty(t, cpuinfoField("", "flags"))
}

func TestNotes(t *testing.T) {
	good := KVM{
		Kind: AMD, TSCScaling: true, ClockRealtime: true, MaxCPUs: 8, RecommendedCPUs: 8,
		HugePages: true,
	}
	require.Empty(t, good.notes())
	small := good
	small.HugePages = false
	require.Len(t, small.notes(), 1)
	require.Contains(t, small.notes()[0], "no huge pages")
	bad := KVM{
		Kind: PVM, EmulatedRing0: true, LegacyCounters: true, MaxCPUs: 8,
		RecommendedCPUs: 2, TSCKHz: 2500000,
		Capabilities: []Capability{
			{Name: "KVM_CAP_XCRS", Required: true, Use: "saving vCPUs"}, {Name: "KVM_CAP_PIT2"},
		},
	}
	notes := bad.notes()
	require.Len(t, notes, 7)
	require.Contains(t, notes[0], "KVM lacks KVM_CAP_XCRS")
	require.Contains(t, notes[3], "performance counters")
	require.Contains(t, notes[4], "2500000 kHz")
	require.Contains(t, notes[6], "at most 2 vCPUs")
}

func TestGivesHugePages(t *testing.T) {
	for setting, want := range map[string]bool{
		"always within_size advise [never] deny force\n": false,
		"always within_size [advise] never deny force\n": true,
		"[always] within_size advise never deny force\n": true,
		"always within_size advise never [deny] force\n": false,
		"": false, "[": false,
	} {
		require.Equal(t, want, givesHugePages(setting), setting)
	}
}
