package vmm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/cpu"
	"taskguide/vmm/device"
)

func sampleConfig() machineConfig {
	return machineConfig{
		Version: configVersion, MemoryBytes: 64 << 20, CPUs: 2, TSCKHz: 2_000_000,
		XSaveBytes: xsaveMinBytes,
		MSRs:       []uint32{0x174, 0x175},
		CPUID: cpu.Table{
			{Function: 0, EAX: 0x10, EBX: 0x68747541, ECX: 0x444d4163, EDX: 0x69746e65},
			{Function: 7, Flags: cpu.FlagIndex, EBX: 1 << 5},
		},
	}
}

func TestConfigRoundTrip(t *testing.T) {
	want := sampleConfig()
	data, err := json.Marshal(&want)
	require.NoError(t, err)
	got, err := parseConfig(data, reads(device.Base()))
	require.NoError(t, err)
	require.Equal(t, &want, got)
}

func TestConfigRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(c *machineConfig)
		want   string
	}{
		{"another version", func(c *machineConfig) { c.Version = 1 },
			"version 1, this program knows version 2"},
		{"no memory", func(c *machineConfig) { c.MemoryBytes = 0 }, "less than the minimum"},
		{"negative memory", func(c *machineConfig) { c.MemoryBytes = -1 }, "less than the minimum"},
		{
			"absurd memory", func(c *machineConfig) { c.MemoryBytes = 1 << 60 },
			"more than the maximum",
		},
		{"odd memory", func(c *machineConfig) { c.MemoryBytes = 64<<20 + 1 }, "not a multiple"},
		{"no vCPU", func(c *machineConfig) { c.CPUs = 0 }, "invalid number of vCPUs: 0"},
		{"too many vCPUs", func(c *machineConfig) { c.CPUs = 9 }, "invalid number of vCPUs: 9"},
		{"no CPUID", func(c *machineConfig) { c.CPUID = nil }, "0 CPUID entries"},
		{"much CPUID", func(c *machineConfig) { c.CPUID = make(cpu.Table, 257) }, "CPUID entries"},
		{"leaf twice", func(c *machineConfig) { c.CPUID[1] = c.CPUID[0] }, "leaf 0x0.0 twice"},
		{
			"too many MSRs", func(c *machineConfig) { c.MSRs = make([]uint32, maxMSRs+1) },
			"1025 MSRs",
		},
		{"MSR of the host's", func(c *machineConfig) { c.MSRs = []uint32{0x10a} },
			"MSR 0x10a does not move"},
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
			_, err = parseConfig(data, reads(device.Base()))
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
		"overflow": strings.Replace(string(good), `"tsc_khz":2000000`, `"tsc_khz":99999999999`,
			1),
		"two objects": string(good) + "{}",
		"huge":        strings.Repeat(" ", maxConfigBytes+1),
	} {
		_, err := parseConfig([]byte(data), reads(device.Base()))
		require.ErrorIs(t, err, ErrConfig, name)
	}
}

// TestConfigOfANewerProgram: what a newer program adds is left out if the machine can do without
// it, and otherwise refused by name, before a page is sent.
func TestConfigOfANewerProgram(t *testing.T) {
	config := sampleConfig()
	good, err := json.Marshal(&config)
	require.NoError(t, err)
	with := func(field string) []byte {
		return []byte(strings.Replace(string(good), "{", "{"+field+",", 1))
	}
	for name, data := range map[string][]byte{
		"optional part":    with(`"optional":{"huge_pages":{"size":2097152}}`),
		"optional section": with(`"sections":[{"name":"newstats","version":4,"optional":true}]`),
		"known section":    with(`"sections":[{"name":"regs","version":1}]`),
	} {
		got, err := parseConfig(data, reads(device.Base()))
		require.NoError(t, err, name)
		got.Optional, got.Sections = nil, nil
		require.Equal(t, &config, got, name)
	}
	for want, data := range map[string][]byte{
		`"huge_pages"`:                  with(`"huge_pages":true`),
		`unknown section "hpet"`:        with(`"sections":[{"name":"hpet","version":1}]`),
		`section "regs" has version 2`:  with(`"sections":[{"name":"regs","version":2}]`),
		`section "serial" has versions`: with(`"sections":[{"name":"serial"}]`),
		`"since"`:                       with(`"sections":[{"name":"pit","version":1,"since":3}]`),
	} {
		_, err := parseConfig(data, reads(device.Base()))
		require.ErrorIs(t, err, ErrConfig, want)
		require.ErrorContains(t, err, want)
	}
}

func FuzzParseConfig(f *testing.F) {
	config := sampleConfig()
	good, err := json.Marshal(&config)
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data, reads(device.Base()))
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			return
		}
		// Whatever is accepted can be checked and given to vCPUs without harm.
		_ = cpu.Check(c.CPUID, config.CPUID)
		for id := range c.CPUs {
			require.Len(t, cpu.ForVCPU(c.CPUID, uint32(id)), len(c.CPUID))
		}
	})
}
