// Package units reads and writes sizes, rates and durations the way people type them.
//
// Sizes are binary, as memory is: 512M is 512 x 1024 x 1024 bytes, and so are 512m and 512MiB.
// Rates are decimal and count bits, as links are: 1Gbit is 1e9 bit/s, and so are 1gbit and 1Gbit/s.
// Case does not matter: nobody means a millibit.
//
// An error says which part of the text is wrong, and how to write it.
package units

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// kind is a kind of quantity: its name, its units in lower case, and how to write it.
type kind struct {
	name  string
	units map[string]int64
	usage string
}

var (
	sizes = kind{"size", map[string]int64{
		"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}, "use bytes or K, M, G, T, as in 512M"}
	rates = kind{"rate", map[string]int64{
		"": 1, "bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9,
		"bit/s": 1, "kbit/s": 1e3, "mbit/s": 1e6, "gbit/s": 1e9,
	}, "use bit/s or kbit, Mbit, Gbit, as in 1Gbit"}
)

var (
	errNoNumber = errors.New("no number")
	errTooLarge = errors.New("too large")
)

// ParseBytes reads a size in bytes: a number with an optional K, M, G or T (1024).
func ParseBytes(s string) (int64, error) { return sizes.parse(s) }

// ParseBitRate reads a rate in bit/s: a number with an optional kbit, Mbit or Gbit (1000).
func ParseBitRate(s string) (int64, error) { return rates.parse(s) }

func (k kind) parse(s string) (int64, error) {
	n, err := k.value(s)
	if err != nil {
		return 0, fmt.Errorf("%s %q: %w: %s", k.name, s, err, k.usage)
	}
	return n, nil
}

func (k kind) value(s string) (int64, error) {
	unit := strings.TrimLeft(s, "0123456789.")
	digits := s[:len(s)-len(unit)]
	if digits == "" {
		return 0, errNoNumber
	}
	factor, known := k.units[strings.ToLower(unit)]
	if !known {
		return 0, fmt.Errorf("unknown unit %q", unit)
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
		if n > math.MaxInt64/factor {
			return 0, errTooLarge
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errTooLarge
	case err != nil:
		return 0, fmt.Errorf("%q is no number", digits)
	}
	// MaxInt64 as a float is 2^63, which does not fit an int64.
	if f *= float64(factor); f >= math.MaxInt64 {
		return 0, errTooLarge
	}
	return int64(f), nil
}

// writtenAsDuration matches what package time accepts, even if the duration is too long.
var writtenAsDuration = regexp.MustCompile(`^[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|ms|s|m|h))+$`)

// ParseDuration reads a duration that is not negative, as Go writes it: 300ms or 1m30s.
func ParseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d >= 0 {
		return d, nil
	}
	if err == nil {
		return 0, fmt.Errorf("duration %q is negative: use 0 or more", s)
	}
	why := "not a duration"
	switch _, number := strconv.ParseFloat(s, 64); {
	case s == "":
		why = "nothing there"
	case number == nil:
		why = "no unit"
	case writtenAsDuration.MatchString(s):
		why = "too long"
	}
	return 0, fmt.Errorf("duration %q: %s: use ms, s, m or h, as in 300ms or 1m30s", s, why)
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

// Milliseconds writes a time, given in ms, in us, ms or s.
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
