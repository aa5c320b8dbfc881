// Package units reads and writes sizes and rates the way people type them.
//
// Sizes are binary, as memory is: 512M is 512 x 1024 x 1024 bytes. Rates are decimal and count
// bits, as links are: 1Gbit is 1e9 bit/s.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

type unit struct {
	suffix string
	factor int64
}

// Longest suffix first: "bit" ends "Gbit", too.
var (
	sizeUnits = []unit{{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}}
	rateUnits = []unit{{"kbit", 1e3}, {"Mbit", 1e6}, {"Gbit", 1e9}, {"bit", 1}}
)

// ParseBytes reads a size in bytes: a number with an optional K, M or G (1024).
func ParseBytes(s string) (int64, error) {
	n, err := parse(s, sizeUnits)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w: use bytes or K, M, G, as in 512M", s, err)
	}
	return n, nil
}

// ParseBitRate reads a rate in bit/s: a number with an optional kbit, Mbit or Gbit (1000).
func ParseBitRate(s string) (int64, error) {
	n, err := parse(s, rateUnits)
	if err != nil {
		return 0, fmt.Errorf("rate %q: %w: use bit/s or kbit, Mbit, Gbit, as in 1Gbit", s, err)
	}
	return n, nil
}

func parse(s string, table []unit) (int64, error) {
	digits, factor := s, int64(1)
	for _, u := range table {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, factor = rest, u.factor
			break
		}
	}
	if digits == "" || strings.Trim(digits, "0123456789.") != "" {
		return 0, fmt.Errorf("not a number with a known unit")
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
		if n > math.MaxInt64/factor {
			return 0, fmt.Errorf("too large")
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, fmt.Errorf("not a number with a known unit")
	}
	// The float of MaxInt64 is 2^63, which an int64 does not hold.
	if f *= float64(factor); f >= math.MaxInt64 {
		return 0, fmt.Errorf("too large")
	}
	return int64(f), nil
}

// Bytes writes a size with three significant digits: 1536 is "1.50 KiB".
func Bytes(n int64) string {
	return scaled(float64(n), 1024, "B", "KiB", "MiB", "GiB", "TiB")
}

// BitRate writes a rate given in bytes/s as bits/s: 125e6 is "1.00 Gbit/s".
func BitRate(bytesPerS float64) string {
	return scaled(bytesPerS*8, 1000, "bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
}

func scaled(v, base float64, names ...string) string {
	i := 0
	// 999.5 would be written "1000".
	for i < len(names)-1 && v >= base-base/2048 {
		v /= base
		i++
	}
	switch {
	case i == 0 || v >= 100:
		return fmt.Sprintf("%.0f %s", v, names[i])
	case v >= 10:
		return fmt.Sprintf("%.1f %s", v, names[i])
	default:
		return fmt.Sprintf("%.2f %s", v, names[i])
	}
}

// Milliseconds writes a time given in ms in the unit that suits it: us, ms or s.
func Milliseconds(ms float64) string {
	switch {
	case ms >= 10_000:
		return fmt.Sprintf("%.1f s", ms/1000)
	case ms >= 1000:
		return fmt.Sprintf("%.2f s", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 1 || ms == 0:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.0f us", ms*1000)
	}
}
