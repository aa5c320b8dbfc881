package vmm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func timerRegs(lvt, divide, initial, current uint32) lapicTimer {
	l := lapicTimer(make([]byte, 1024))
	l.set(apicSpurious, apicSoftwareEnable|0xff)
	l.set(apicLVTTimer, lvt)
	l.set(apicDivide, divide)
	l.set(apicInitialCount, initial)
	l.set(apicCurrentCount, current)
	return l
}

func TestLAPICTimerAdvances(t *testing.T) {
	const vector = 0x41
	const periodic = timerPeriodic<<lvtModeShift | vector
	const deadline = 2<<lvtModeShift | vector
	for _, c := range []struct {
		name                           string
		lvt, divide, initial, current  uint32
		stood                          time.Duration
		wantInitial, wantLeft, wantIRR uint32
	}{
		{"one-shot goes on", vector, 0xb, 1000, 600, 250, 1000, 350, 0},
		{"one-shot goes on, divided by 16", vector, 3, 1000, 600, 250, 1000, 585, 0},
		{"one-shot expires meanwhile", vector, 0xb, 1000, 600, 600, 0, 0, 1},
		{"one-shot had expired", vector, 0xb, 1000, 0, 0, 0, 0, 1},
		{"one-shot had expired, masked", vector | lvtMasked, 0xb, 1000, 0, 0, 0, 0, 0},
		{"never started", vector, 0xb, 0, 0, 5000, 0, 0, 0},
		{"periodic within a period", periodic, 0xb, 1000, 600, 250, 1000, 350, 1},
		{"periodic into the next", periodic, 0xb, 1000, 600, 700, 1000, 900, 1},
		{"periodic over several", periodic, 0xb, 1000, 600, 5600, 1000, 1000, 1},
		{"periodic at a period's end", periodic, 0xb, 1000, 0, 0, 1000, 1000, 1},
		{"periodic, divided by 128", periodic, 0xa, 1000, 10, 128 * 15, 1000, 995, 1},
		{"deadline", deadline, 0xb, 1000, 600, 5000, 1000, 600, 0},
		{"NMI", vector | 4<<8, 0xb, 1000, 0, 0, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := timerRegs(c.lvt, c.divide, c.initial, c.current)
			l.advance(c.stood)
			require.Equal(t, c.wantInitial, l.get(apicInitialCount), "initial count")
			require.Equal(t, c.wantLeft, l.get(apicCurrentCount), "current count")
			require.Equal(t, c.wantIRR<<(vector%32), l.get(apicIRR+vector/32*16), "request")
		})
	}
}

func TestLAPICTimerDivides(t *testing.T) {
	// Intel SDM volume 3, figure 12-10.
	for divide, by := range map[uint32]time.Duration{
		0: 2, 1: 4, 2: 8, 3: 16, 8: 32, 9: 64, 0xa: 128, 0xb: 1,
	} {
		require.Equal(t, by, timerRegs(0, divide, 1, 0).period(), "%#x", divide)
	}
}

// FuzzLAPICTimer: a state from another host has any registers.
func FuzzLAPICTimer(f *testing.F) {
	f.Add(uint32(0x20041), uint32(0xb), uint32(1000), uint32(600), int64(700))
	f.Add(uint32(0x41), uint32(3), uint32(1), uint32(1<<32-1), int64(maxStandstill))
	f.Fuzz(func(t *testing.T, lvt, divide, initial, current uint32, ns int64) {
		stood := time.Duration(ns)
		if stood < 0 || stood > maxStandstill {
			return
		}
		l := timerRegs(lvt, divide, initial, current)
		l.advance(stood)
		require.LessOrEqual(t, l.get(apicCurrentCount), max(initial, current))
	})
}
