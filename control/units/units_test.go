package units

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "1K": 1 << 10, "512M": 512 << 20, "3G": 3 << 30, "1.5G": 3 << 29,
		"0.5M": 1 << 19, "8589934591G": 8589934591 << 30,
		"1k": 1 << 10, "512m": 512 << 20, "3g": 3 << 30,
		"1KiB": 1 << 10, "512MiB": 512 << 20, "3GiB": 3 << 30, "2mib": 2 << 20, "2MIB": 2 << 20,
	} {
		got, err := ParseBytes(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for in, want := range map[string]string{
		"": "no number", "M": "no number", "-1M": "no number", "+1": "no number",
		"1P": `unknown unit "P"`, "1 M": `unknown unit " M"`, "1MB": `unknown unit "MB"`,
		"1Mbit": `unknown unit "Mbit"`, "0x10": `unknown unit "x10"`, "1e3": `unknown unit "e3"`,
		"1..2": `"1..2" is no number`, ".": `"." is no number`,
		"8589934592G": "too large", "9223372036854775808": "too large",
		"99999999999.0G": "too large", strings.Repeat("9", 400): "too large",
	} {
		_, err := ParseBytes(in)
		require.EqualError(t, err,
			fmt.Sprintf("size %q: %s: use bytes or K, M, G, T, as in 512M", in, want))
	}
}

func TestParseBitRate(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1000": 1000, "64kbit": 64e3, "100Mbit": 100e6, "1Gbit": 1e9, "2.5Gbit": 2.5e9,
		"8bit": 8, "1gbit": 1e9, "100MBIT": 100e6, "64Kbit": 64e3,
		"1Gbit/s": 1e9, "8bit/s": 8, "5mbit/S": 5e6,
	} {
		got, err := ParseBitRate(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for in, want := range map[string]string{
		"": "no number", "Gbit": "no number", "fast": "no number", "-5Mbit": "no number",
		"1G": `unknown unit "G"`, "1Gb": `unknown unit "Gb"`, "1Gbit/m": `unknown unit "Gbit/m"`,
		"9300000000Gbit": "too large",
	} {
		_, err := ParseBitRate(in)
		require.EqualError(t, err,
			fmt.Sprintf("rate %q: %s: use bit/s or kbit, Mbit, Gbit, as in 1Gbit", in, want))
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "300ms": 300 * time.Millisecond, "1m30s": 90 * time.Second,
		"1.5h": 90 * time.Minute,
	} {
		got, err := ParseDuration(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for in, want := range map[string]string{
		"": "nothing there", "3": "no unit", "1.5": "no unit",
		"9999999h": "too long", "1h99999999999999999999.5s": "too long",
		"1d": "not a duration", ".s": "not a duration", "1 s": "not a duration",
		"soon": "not a duration",
	} {
		_, err := ParseDuration(in)
		require.EqualError(t, err,
			fmt.Sprintf("duration %q: %s: use ms, s, m or h, as in 300ms or 1m30s", in, want))
	}
	_, err := ParseDuration("-1s")
	require.EqualError(t, err, `duration "-1s" is negative: use 0 or more`)
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

// FuzzParse: an accepted value is in range and does not depend on case. An error names the text.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"512M", "1Gbit", "9223372036854775807", "1.5G", "..", "", "3", "-1s", "1m30s", "2MiB",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (int64, error){
			ParseBytes, ParseBitRate,
			func(s string) (int64, error) { d, err := ParseDuration(s); return int64(d), err },
		} {
			n, err := parse(s)
			if err != nil {
				require.ErrorContains(t, err, strconv.Quote(s))
				require.ErrorContains(t, err, "use ")
				require.NotContains(t, err.Error(), "\n")
				continue
			}
			require.GreaterOrEqual(t, n, int64(0))
		}
		for _, parse := range []func(string) (int64, error){ParseBytes, ParseBitRate} {
			n, err := parse(s)
			small, errSmall := parse(strings.ToLower(s))
			large, errLarge := parse(strings.ToUpper(s))
			if err == nil {
				require.NoError(t, errors.Join(errSmall, errLarge))
				require.Equal(t, n, small)
				require.Equal(t, n, large)
			}
		}
	})
}
