package vmm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sampleConfig() machineConfig {
	return machineConfig{
		Version: configVersion, MemoryBytes: 64 << 20, CPUs: 2, TSCKHz: 2_000_000, XSaveBytes: xsaveMinBytes,
		MSRs:  []uint32{0x174, 0x175},
		CPUID: toConfig(amdTable()),
	}
}

func TestConfigRoundTrip(t *testing.T) {
	want := sampleConfig()
	data, err := json.Marshal(&want)
	require.NoError(t, err)
	got, err := parseConfig(data)
	require.NoError(t, err)
	require.Equal(t, &want, got)
	require.Equal(t, amdTable(), fromConfig(got.CPUID))
}

func TestConfigRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(c *machineConfig)
		want   string
	}{
		{"another version", func(c *machineConfig) { c.Version = 2 }, "version 2, this program knows version 1"},
		{"no memory", func(c *machineConfig) { c.MemoryBytes = 0 }, "less than the minimum"},
		{"negative memory", func(c *machineConfig) { c.MemoryBytes = -1 }, "less than the minimum"},
		{"absurd memory", func(c *machineConfig) { c.MemoryBytes = 1 << 60 }, "more than the maximum"},
		{"odd memory", func(c *machineConfig) { c.MemoryBytes = 64<<20 + 1 }, "not a multiple"},
		{"no vCPU", func(c *machineConfig) { c.CPUs = 0 }, "invalid number of vCPUs: 0"},
		{"too many vCPUs", func(c *machineConfig) { c.CPUs = 9 }, "invalid number of vCPUs: 9"},
		{"no CPUID", func(c *machineConfig) { c.CPUID = nil }, "0 CPUID entries"},
		{"too much CPUID", func(c *machineConfig) { c.CPUID = make([]cpuidEntry, maxCPUID+1) }, "CPUID entries"},
		{"CPUID leaf twice", func(c *machineConfig) { c.CPUID = append(c.CPUID, c.CPUID[1]) }, "leaf 0x1.0 twice"},
		{"too many MSRs", func(c *machineConfig) { c.MSRs = make([]uint32, maxMSRs+1) }, "1025 MSRs"},
		{"MSR twice", func(c *machineConfig) { c.MSRs = []uint32{1, 2, 1} }, "MSR 0x1 twice"},
		{"no XSAVE area", func(c *machineConfig) { c.XSaveBytes = 0 }, "XSAVE area of 0 bytes"},
		{"absurd XSAVE area", func(c *machineConfig) { c.XSaveBytes = 1 << 30 }, "XSAVE area"},
		{"no TSC frequency", func(c *machineConfig) { c.TSCKHz = 0 }, "TSC"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := sampleConfig()
			c.change(&config)
			data, err := json.Marshal(&config)
			require.NoError(t, err)
			_, err = parseConfig(data)
			require.ErrorIs(t, err, ErrConfig)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestConfigForms(t *testing.T) {
	config := sampleConfig()
	good, err := json.Marshal(&config)
	require.NoError(t, err)
	for name, data := range map[string]string{
		"empty":         "",
		"not JSON":      "\x00\x01",
		"not an object": "[1]",
		"unknown field": strings.Replace(string(good), `"cpus"`, `"cpu_count"`, 1),
		"wrong type":    strings.Replace(string(good), `"cpus":2`, `"cpus":"2"`, 1),
		"overflow":      strings.Replace(string(good), `"tsc_khz":2000000`, `"tsc_khz":99999999999`, 1),
		"two objects":   string(good) + "{}",
		"huge":          strings.Repeat(" ", maxConfigBytes+1),
	} {
		_, err := parseConfig([]byte(data))
		require.ErrorIs(t, err, ErrConfig, name)
	}
}

func FuzzParseConfig(f *testing.F) {
	config := sampleConfig()
	good, err := json.Marshal(&config)
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			return
		}
		// Whatever is accepted can be checked and given to vCPUs without harm.
		_ = checkCPUID(fromConfig(c.CPUID), amdTable())
		for id := range c.CPUs {
			require.Len(t, vcpuCPUID(fromConfig(c.CPUID), uint32(id)), len(c.CPUID))
		}
	})
}
