package units

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "1K": 1 << 10, "512M": 512 << 20, "3G": 3 << 30, "1.5G": 3 << 29, "0.5M": 1 << 19,
		"8589934591G": 8589934591 << 30,
	} {
		got, err := ParseBytes(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "M", "-1M", "+1", "1T", "1 M", "1MB", "0x10", "1e3", "1..2", ".", "8589934592G", "9223372036854775808", "99999999999.0G"} {
		_, err := ParseBytes(in)
		require.ErrorContains(t, err, "use bytes or K, M, G", in)
	}
}

func TestParseBitRate(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1000": 1000, "64kbit": 64e3, "100Mbit": 100e6, "1Gbit": 1e9, "2.5Gbit": 2.5e9, "8bit": 8,
	} {
		got, err := ParseBitRate(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "Gbit", "1G", "1gbit", "-5Mbit", "1Gbit/s", "fast", "9300000000Gbit"} {
		_, err := ParseBitRate(in)
		require.ErrorContains(t, err, "use bit/s or kbit, Mbit, Gbit", in)
	}
}

func TestWrite(t *testing.T) {
	require.Equal(t, "0 B", Bytes(0))
	require.Equal(t, "1023 B", Bytes(1023))
	require.Equal(t, "1.50 KiB", Bytes(1536))
	require.Equal(t, "512 MiB", Bytes(512<<20))
	require.Equal(t, "1.00 GiB", Bytes(1<<30-1))
	require.Equal(t, "1.00 Gbit/s", BitRate(125e6))
	require.Equal(t, "12.5 Mbit/s", BitRate(12.5e6/8))
	require.Equal(t, "84 us", Milliseconds(0.084))
	require.Equal(t, "0.0 ms", Milliseconds(0))
	require.Equal(t, "2.3 ms", Milliseconds(2.31))
	require.Equal(t, "412 ms", Milliseconds(412))
	require.Equal(t, "4.07 s", Milliseconds(4071))
	require.Equal(t, "61.0 s", Milliseconds(61_000))
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"512M", "1Gbit", "9223372036854775807", "1.5G", "..", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseBytes(s); err == nil {
			require.GreaterOrEqual(t, n, int64(0))
		}
		if n, err := ParseBitRate(s); err == nil {
			require.GreaterOrEqual(t, n, int64(0))
		}
	})
}
